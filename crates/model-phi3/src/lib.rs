//! Phi-3 configuration, tensor mapping and load plan.
