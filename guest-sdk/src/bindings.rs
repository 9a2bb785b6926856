//! What `wit-bindgen` makes of `wit/guest.wit`: the types of the contract, the imported `log`, and `export!`.
//!
//! The generated code keeps its own style, so most lints of this workspace stop at this file. Its types are plain data
//! and compile for every target; only `dacapo::guest::log` needs a host.

#![allow(unsafe_code, reason = "the canonical ABI passes values as raw parts of the guest's memory")]
#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]

wit_bindgen::generate!({
    path: "wit",
    world: "module",
    pub_export_macro: true,
    additional_derives: [PartialEq],
});
