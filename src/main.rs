//! The program `eider`: everything is in the library.

/// Gives memory back soon after work is done, which the C library's allocator, with an arena for
/// each thread, does not: a daemon is idle for most of its life.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(eider::cli::main())
}
