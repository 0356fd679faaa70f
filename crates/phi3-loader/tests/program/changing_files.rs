//! Changes files while the program loads them from a memory mapping. Without a handler, SIGBUS would kill the
//! process.

use crate::changes::{BATCH, MOMENTS, SETTLING, Tally, cases, contents, rng};
use crate::program::program;
use serde_json::Value;
use std::path::Path;
use std::time::Instant;

#[test]
fn with_mmap_no_mixture_of_old_and_new_passes_and_no_signal_kills_the_process() {
    let mut rng = rng();
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (contents(1, 1), contents(1, 2));
    let load = |file: &Path| {
        let dump = file.with_extension("safetensors");
        let load = ["load", file.to_str().unwrap(), "--device=host", "--json", "--quiet"];
        let output = program(load)
            .args(["--io=mmap", "--threads=2", "--chunk=4096", "--dump", dump.to_str().unwrap()])
            .output()
            .unwrap();
        let code = output.status.code().expect("no signal ends the process");
        let events: Vec<Value> = str::from_utf8(&output.stdout)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let opened = events[0]["event"] == "opened";
        let error = events.last().unwrap()["code"].as_str().unwrap_or_default().to_owned();
        (std::fs::read(dump), code, error, opened)
    };
    let clean = |files: &[Vec<u8>]| {
        let file = dir.path().join("model.gguf");
        std::fs::write(&file, &files[0]).unwrap();
        std::thread::sleep(SETTLING);
        let start = Instant::now();
        let (dump, code, error, _) = load(&file);
        assert_eq!(code, 0, "{error}");
        (dump.unwrap(), start.elapsed())
    };
    let (old_dump, whole) = clean(&old);
    let (new_dump, _) = clean(&new);
    assert!(old_dump != new_dump);

    let mut tally = Tally::default();
    for batch in 0..MOMENTS / BATCH {
        let folder = dir.path().join(batch.to_string());
        for case in cases(&folder, &old, &new, BATCH, &mut rng) {
            let (dump, code, error, opened) = case.run(&new, whole, || load(&case.first));
            let result = match code {
                0 => Ok((dump.unwrap(), &old_dump, &new_dump)),
                _ => Err((error.as_str(), code, opened)),
            };
            tally.count(&case, result, &format!("batch {batch}"));
        }
    }
    println!("{tally:?}");
}
