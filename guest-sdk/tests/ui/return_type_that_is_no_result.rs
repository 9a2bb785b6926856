//! A type that could have been an alias of `Result`.

#![allow(unused)]

use dacapo_guest::prelude::*;

struct Bread;

#[activity]
async fn bake(loaf: String) -> Bread {
    Bread
}

fn main() {}
