//! Loads Phi-3 GGUF files into device memory.
