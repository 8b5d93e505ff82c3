//! What pages are made of, for the reports of other crates: one self-contained file, no script, nothing from elsewhere.
//!
//! | part | for |
//! |---|---|
//! | [`page`] | the shell: a policy that forbids scripts and everything from outside, and the style |
//! | [`Escaped`], [`shortened`] | texts of users and files |
//! | [`number`] | numbers as people read them |
//! | [`Axis`] | where a value lies in a picture, and which values are written beside it |
//! | [`histogram`] | how often each edit ratio occurs |
//! | [`changes`], [`Edits`] | what a correction changed, as `<ins>` and `<del>` |
//! | [`write_whole`] | a file that is there whole or not at all |
//!
//! ```
//! use aligner_report::kit::{Escaped, changes, page};
//! let body = format!("<h1>{}</h1><p class=\"diff\">{}</p>", Escaped("1 < 2"), changes("it is five", "it is four"));
//! let html = page("A report", "", &body);
//! assert!(html.contains("1 &lt; 2") && html.contains("it is <del>five</del><ins>four</ins>"));
//! ```

mod axis;
mod changes;
mod file;
mod histogram;
pub mod number;
mod shell;
mod text;

pub use axis::Axis;
pub use changes::{Edits, changes};
pub use file::write_whole;
pub use histogram::histogram;
pub use shell::page;
pub use text::{Escaped, shortened};

/// Width and height of the coordinates in which a stretched picture is drawn.
pub(crate) const SIZE: f64 = 1000.0;
