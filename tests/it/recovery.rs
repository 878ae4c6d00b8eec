//! Kill the real program anywhere, start it again: the operation ends, the live tree is the old or
//! the new one, the hooks `after` have run, and no acknowledged backup is lost.

mod daemon;
mod kill;
pub mod listed;
mod matrix;
mod others;
mod points;
