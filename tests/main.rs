//! Does the built program keep its promises? It is driven from outside, over HTTP, as its users drive it.
//!
//! Each test has a server of its own, on a port of its own and in a folder of its own. When a test is done with its server,
//! every execution in that folder is replayed from its history once more; a divergence fails the test.

mod abuse;
mod archive;
mod cli;
mod clients;
mod contract;
mod crash;
mod deletion;
mod disks;
mod examples;
mod faults;
mod hostile;
mod isolation;
mod measure;
mod modules;
mod newcomer;
mod orchestration;
mod poison;
mod readme;
mod residents;
mod serve;
mod support;
mod tidy;
mod verify;
