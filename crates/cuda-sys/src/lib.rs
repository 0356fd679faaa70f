//! Bridge to the transfer engine.
