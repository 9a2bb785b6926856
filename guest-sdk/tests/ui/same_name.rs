//! Two functions of a module with one name.

#![allow(unused)]

use dacapo_guest::prelude::*;

#[activity(name = "Bake")]
async fn bake_bread() -> Result<()> {
    Ok(())
}

#[activity(name = "Bake")]
async fn bake_cake() -> Result<()> {
    Ok(())
}

dacapo_guest::module!(bake_bread, bake_cake);

fn main() {}
