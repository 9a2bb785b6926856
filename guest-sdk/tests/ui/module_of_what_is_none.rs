//! A function without an attribute cannot go into a module.

#![allow(unused)]

use dacapo_guest::prelude::*;

async fn bake(loaf: String) -> Result<String> {
    Ok(loaf)
}

dacapo_guest::module!(bake);

fn main() {}
