//! Looks for a keeper where there is none, and reads a file that is not a manifest.

use keeper::{Connection, Manifest, ManifestError};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("a file is required")?;
    let decoded = Manifest::decode(&std::fs::read(&path)?);
    assert!(matches!(decoded, Err(ManifestError::NotAManifest)));
    let error = Connection::open(path.as_ref()).expect_err("the file is not a socket");
    println!("{}: {error}", error.code());
    Ok(())
}
