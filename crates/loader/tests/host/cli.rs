//! The program: results, messages and exit codes.
