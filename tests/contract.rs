//! Is the wire contract of the Durable Functions HTTP API kept? Operation by operation, status code by status code.

mod access;
mod capability;
mod control;
mod document;
mod history;
mod hubs;
mod list;
mod once;
mod operations;
mod purge;
mod query;
mod restart;
mod routes;
mod start;
mod status;
mod stores;
mod stream;
mod table;
mod urls;
mod wait;
mod why;

/// Every prefix of the contract. A listener that asks for no key serves all of them.
const PREFIXES: [&str; 4] = [
    "/admin/extensions/DurableTaskExtension",
    "/webhookextensions/handler/DurableTaskExtension",
    "/runtime/webhooks/durabletask",
    "/durabletask",
];
