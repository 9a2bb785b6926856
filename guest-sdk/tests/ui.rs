//! What does a user see who writes a function that cannot be? The compiler's words, case by case.
//!
//! `TRYBUILD=overwrite cargo test -p dacapo-guest --test ui` writes down what it says now; read every line of it.

#[test]
fn every_mistake_is_told_at_its_line_and_with_what_to_write_instead() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
