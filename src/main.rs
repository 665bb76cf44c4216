//! The `auditsync` program. The library's documentation describes its parts.

use std::process::ExitCode;

fn main() -> ExitCode {
    auditsync::cli::main(std::env::args_os())
}
