//! The command `resident`: what a keeper has.

use super::args::{ResidentAction, ResidentDrop, ResidentList, ResidentVerify};
use super::color::Palette;
use super::failure::Failure;
use super::json::{self, ResidentDocument, VerifyDocument};
use super::progress::LoadBar;
use super::signals::Interrupt;
use super::stdout;
use super::text::{counted, memory_bytes};
use gguf_format::{escape, path_text};
use indicatif::MultiProgress;
use keeper::{Key, Listed, Store};
use loader::{CancelToken, Error, LoadEvent, LoadOptions, LoadStats, Loader, codes};
use std::ffi::OsStr;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

pub(super) fn run(
    action: ResidentAction,
    bars: &MultiProgress,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    match action {
        ResidentAction::List(arguments) => interrupt.or_end(move || list(&arguments)),
        ResidentAction::Drop(arguments) => interrupt.or_end(move || drop(&arguments)),
        ResidentAction::Verify(arguments) => verify(&arguments, bars, interrupt.token()),
    }
}

fn list(arguments: &ResidentList) -> Result<(), Failure> {
    let entries = arguments.socket.connect()?.list()?;
    if arguments.json {
        return json::print(&ResidentDocument::new(&entries));
    }
    if entries.is_empty() {
        return print_none();
    }
    Ok(stdout::print(|out| entries.iter().try_for_each(|entry| write_entry(out, entry)))?)
}

fn print_none() -> Result<(), Failure> {
    Ok(stdout::print(|out| writeln!(out, "the keeper has no weights"))?)
}

fn write_entry(out: &mut dyn Write, entry: &Listed) -> std::io::Result<()> {
    let Listed { manifest, users, unused_seconds, .. } = entry;
    let Palette { heading, .. } = Palette::stdout();
    writeln!(out, "{heading}{}{heading:#}", manifest.key)?;
    for file in &manifest.files {
        writeln!(out, "  file     {}", path_text(Path::new(OsStr::from_bytes(&file.path))))?;
    }
    let (storage, mode) = (escape(&manifest.storage), escape(&manifest.placement.mode));
    writeln!(out, "  storage  {storage}, split {mode}")?;
    for part in &manifest.parts {
        let (device, name) = (escape(&part.device), escape(&part.device_name));
        writeln!(out, "  device   {device} ({name}): {}", memory_bytes(part.bytes))?;
    }
    writeln!(out, "  created  {}", created(manifest.created))?;
    match unused_seconds {
        Some(seconds) => writeln!(out, "  unused   for {seconds} s"),
        None => writeln!(out, "  in use   by {}", counted(*users, "connection")),
    }
}

/// Formats a time in seconds since 1970.
fn created(seconds: u64) -> impl std::fmt::Display {
    // The end of the year 9999: the format has no later times.
    const LAST: u64 = 253_402_300_799;
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST)))
}

fn drop(arguments: &ResidentDrop) -> Result<(), Failure> {
    let mut keeper = arguments.socket.connect()?;
    let entries = keeper.list()?;
    for Listed { manifest, users, .. } in chosen(&entries, arguments.key.as_deref())? {
        if keeper.remove(&manifest.key)? {
            let still_used = match users {
                0 => String::new(),
                users => {
                    format!("; the memory is still in use by {}", counted(*users, "connection"))
                }
            };
            let (key, bytes) = (&manifest.key, memory_bytes(manifest.memory_bytes()));
            stdout::print(|out| writeln!(out, "dropped   {key}: {bytes}{still_used}"))?;
        }
    }
    Ok(())
}

/// Returns the entry with this key, or the only one whose key starts with it. Without a key, returns all entries.
fn chosen<'a>(entries: &'a [Listed], key: Option<&str>) -> Result<Vec<&'a Listed>, Failure> {
    let Some(key) = key else { return Ok(entries.iter().collect()) };
    let key_of = |entry: &Listed| entry.manifest.key.to_string();
    let starting: Vec<_> = entries.iter().filter(|of| key_of(of).starts_with(key)).collect();
    let exact = starting.iter().find(|of| key_of(of) == key);
    match (exact, &starting[..]) {
        (Some(entry), _) | (None, [entry]) => Ok(vec![*entry]),
        (None, []) => Err(unknown(key)),
        (None, several) => {
            let (count, key) = (several.len(), escape(key));
            Err(Failure::UnknownKey(format!("{count} keys start with {key}")))
        }
    }
}

fn unknown(key: &str) -> Failure {
    Failure::UnknownKey(format!("the keeper has no entry with the key {}", escape(key)))
}

/// Attaches to entries one after the other. Fails after the last one if one of them is wrong.
fn verify(
    arguments: &ResidentVerify,
    bars: &MultiProgress,
    token: &CancelToken,
) -> Result<(), Failure> {
    let mut keeper = arguments.socket.connect()?;
    let entries = keeper.list()?;
    let mut results = Vec::new();
    for Listed { manifest, .. } in chosen(&entries, arguments.key.as_deref())? {
        let key = &manifest.key;
        let Some(entry) = keeper.fetch(key)? else {
            // Another process has dropped it since it was listed.
            match &arguments.key {
                Some(_) => return Err(unknown(key.as_str())),
                None => continue,
            }
        };
        let mut loader = Loader::new(LoadOptions::new());
        let attached = {
            let mut bar = LoadBar::new(bars);
            let mut observer = |event: &LoadEvent<'_>| {
                bar.event(event);
                ControlFlow::Continue(())
            };
            loader.attach(&entry, &mut observer, token)
        };
        token.check()?;
        let result = attached.map(|model| model.stats().clone());
        if !arguments.json {
            stdout::print(|out| write_result(out, key, &result))?;
        }
        results.push((key.clone(), result));
    }
    if arguments.json {
        json::print(&VerifyDocument::new(&results))?;
    } else if results.is_empty() {
        print_none()?;
    }
    let errors = results.into_iter().filter_map(|(_, result)| result.err());
    // Wrong weights are worse than weights that cannot be examined.
    let wrong = |error: &Error| error.exit_code() == codes::VERIFICATION_FAILED.exit_code;
    errors.min_by_key(|error| !wrong(error)).map_or(Ok(()), |error| Err(error.into()))
}

fn write_result(
    out: &mut dyn Write,
    key: &Key,
    result: &Result<LoadStats, Error>,
) -> std::io::Result<()> {
    let Palette { good, error: bad, .. } = Palette::stdout();
    match result {
        Ok(stats) => {
            let size = memory_bytes(stats.vram_bytes);
            writeln!(out, "{good}ok{good:#}        {key}: {size} on {}", stats.device)
        }
        Err(error) => writeln!(out, "{bad}wrong{bad:#}     {key}: {}: {error}", error.code()),
    }
}
