//! GGUF files as typed, bounds-proven data.
