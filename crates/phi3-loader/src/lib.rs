//! The program `phi3-loader`: it parses arguments, calls the crate `loader` and prints the results.
//!
//! ```sh
//! phi3-loader devices                          # the devices that can be loaded to
//! phi3-loader inspect MODEL.gguf               # header, configuration and tensors of any GGUF file
//! phi3-loader plan MODEL.gguf                  # bytes of device memory for weights and cache; needs no GPU
//! phi3-loader load MODEL.gguf --device cuda:0 --verify checksum --json    # loads, one event a line
//! phi3-loader load MODEL.gguf --dump weights.safetensors                  # and writes the weights
//! phi3-loader load MODEL.gguf --device cuda:0,cuda:1                      # half of the layers on each GPU
//! phi3-loader hold --socket SOCKET              # keeps weights for other processes
//! phi3-loader load MODEL.gguf --resident SOCKET # attaches to them, or loads and publishes
//! phi3-loader resident list --socket SOCKET     # lists the weights of the keeper
//! phi3-loader verify MODEL.gguf                # reads everything once: is the file whole?
//! phi3-loader bench MODEL.gguf                 # loads beside the limits of the machine
//! phi3-loader synth OUT.gguf --preset mini-4k  # a file with real shapes and random weights
//! ```
//!
//! `--json` is described in `docs/json.md` of the repository, codes and exit codes in `docs/errors.md`. Programs use
//! the crate `loader` instead. This crate is a library only so that tests can run the program with another allocator.

mod args;
mod bench;
mod color;
mod completions;
mod config_report;
mod device_list;
mod devices;
mod dump;
mod failure;
mod file_type;
mod hold;
mod inspect;
mod json;
mod load;
mod logging;
mod man;
mod metadata_values;
mod out_of_memory;
mod outputs;
mod placement;
mod plan;
mod progress;
mod resident;
mod signals;
mod stdout;
mod store;
mod synth;
mod table;
mod text;
mod thread_limits;
mod timeline;
mod verify;
mod version;
mod visible_gpus;

use args::Command;
use failure::Failure;
use signals::Interrupt;
use std::process::ExitCode;

pub use out_of_memory::out_of_memory;

/// The state of the process at its start, before the standard library changes it.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Whether the process has a standard output.
    pub stdout_is_open: bool,
}

/// Runs the command line of this process and returns its exit code.
///
/// Prints results to standard output and everything else to standard error. Installs a `tracing` subscriber and
/// handlers of SIGINT, SIGTERM and SIGXFSZ, and sets `CUDA_VISIBLE_DEVICES`, which only a program may do.
pub fn main(start: Start) -> ExitCode {
    if !start.stdout_is_open {
        stdout::was_closed();
    }
    signals::survive_size_limits();
    let interrupt = Interrupt::install();
    match run(&interrupt) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of the output closed the pipe, for example `head`. This is not an error.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            failure.print();
            ExitCode::from(interrupt.exit_code(&failure))
        }
    }
}

fn run(interrupt: &Interrupt) -> Result<(), Failure> {
    if let Some(request) = completions::Request::of_shell() {
        return interrupt.or_end(move || request.answer());
    }
    let arguments = match args::parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            color::asked(std::env::args_os()).unwrap_or_default().write_global();
            if error.use_stderr() {
                return Err(Failure::Usage(error));
            }
            let help = error.render();
            return interrupt.or_end(move || Ok(stdout::print_styled(&help)?));
        }
    };
    arguments.color.write_global();
    if let Some(ordinal) = arguments.command.only_gpu() {
        visible_gpus::hide_all_but(ordinal);
    }
    for model in arguments.command.models() {
        outputs::check_standard_error(model)?;
    }
    let bars = progress::bars(arguments.quiet || arguments.command.prints_events());
    logging::init(&arguments, &bars);
    let quiet = arguments.quiet;
    match arguments.command {
        Command::Inspect(command) => interrupt.or_end(move || inspect::run(&command)),
        Command::Plan(command) => interrupt.or_end(move || plan::run(&command)),
        Command::Load(command) => load::run(&command, quiet, &bars, interrupt),
        Command::Verify(command) => verify::run(&command, &bars, interrupt.token()),
        Command::Hold(command) => hold::run(&command, interrupt),
        Command::Resident(command) => resident::run(command.action, &bars, interrupt),
        Command::Bench(command) => bench::run(command, quiet, &bars, interrupt.token()),
        Command::Devices(command) => interrupt.or_end(move || devices::run(&command)),
        Command::Synth(command) => synth::run(&command, quiet, &bars, interrupt.token()),
        Command::Completions(command) => interrupt.or_end(move || completions::run(&command)),
        Command::Man(command) => interrupt.or_end(move || man::run(&command)),
    }
}
