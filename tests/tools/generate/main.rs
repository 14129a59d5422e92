//! Writes the man page and the completions from the option table: `cargo run --example generate`.
//!
//! They are checked in, and a test compares them with what this would write.

mod files;
mod man;

fn main() -> std::io::Result<()> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for (path, text) in files::generated() {
        std::fs::write(root.join(path), text)?;
        println!("{path}");
    }
    Ok(())
}
