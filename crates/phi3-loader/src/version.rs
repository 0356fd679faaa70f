//! The text of `--version`.

/// Returns the version, the commit if the build knows it, and what CUDA the build has.
pub(super) fn text() -> String {
    let commit = option_env!("PHI3_LOADER_COMMIT").map(|commit| format!("\ncommit {commit}"));
    let cuda = match cuda_sys::cuda_build() {
        Some(build) => format!("{}, code for {}", build.toolkit, build.architectures),
        None => "not in this build".to_owned(),
    };
    format!("{}{}\nCUDA {cuda}", env!("CARGO_PKG_VERSION"), commit.unwrap_or_default())
}
