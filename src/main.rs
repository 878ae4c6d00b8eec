//! The program `eider`: everything is in the library.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(eider::cli::main())
}
