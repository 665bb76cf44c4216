//! The `auditsync` program; see the library for how it is made.

use std::process::ExitCode;

fn main() -> ExitCode {
    auditsync::cli::main(std::env::args_os())
}
