//! Is each task hub, each module and the server's data closed to everybody else? Seen from outside, on a real server.

mod files;
mod hubs;
mod network;
