//! Parse, run, print what went wrong, choose the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    match nodeinit::cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if nodeinit::cli::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nodeinit: {error:#}");
            if nodeinit::cli::is_wrong_use(&error) { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
