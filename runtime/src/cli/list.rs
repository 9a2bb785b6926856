//! `dacapo list`: which instances are there?

use anyhow::Result;
use serde_json::value::RawValue;

use super::client::{self, Client, Parameter};
use super::connection::Connection;
use super::filter::{Filter, STATUSES, borrowed};
use super::output::{Cell, Table, Tone, relative, say, say_data};
use super::wire::Instance;
use super::{moment, tell};
use crate::clock::Clock;

/// How many instances are shown if nobody says how many.
const TOP: &str = "50";

fn about() -> String {
    let statuses = STATUSES.join(", ");
    format!(
        "Statuses are {statuses}.\nWith --prefix they are listed by ID.\n\n{}\n\nExamples:\n  dacapo list --status Failed,Terminated --created-after 2h\n  dacapo list --prefix loaf- --top 1000 --json\n  dacapo list --tag shop=north --tag kind=rye",
        moment::FORMS
    )
}

/// List instances, the oldest first
#[derive(Debug, clap::Args)]
#[command(after_help = about())]
pub(super) struct List {
    #[command(flatten)]
    filter: Filter,

    /// How many at most
    #[arg(long, value_name = "N", default_value = TOP, value_parser = clap::value_parser!(u32).range(1..))]
    top: u32,

    /// Print a JSON array of statuses, as the server gives them
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

impl List {
    pub(super) fn run(self) -> Result<()> {
        let client = self.connection.client()?.spinning();
        let (instances, more) = self.collect(&client)?;
        if self.json {
            let texts: Vec<_> = instances.iter().map(|instance| instance.get()).collect();
            say_data(&format!("[{}]", texts.join(",")))?;
        } else if !instances.is_empty() {
            let instances = instances.iter().map(|text| client::parse(text.get())).collect::<Result<Vec<_>>>()?;
            say(table(&instances, Clock.now_ms()).show())?;
        } else {
            tell("There is no such instance");
        }
        if more {
            tell(format_args!("These are the first {}; --top shows more", self.top));
        }
        Ok(())
    }

    /// As many instances as are wanted, and whether there are more.
    fn collect(&self, client: &Client) -> Result<(Vec<Box<RawValue>>, bool)> {
        let filter = self.filter.parameters();
        // A table has no place for inputs.
        let show_input = (!self.json).then_some(("showInput", "false"));
        let filters: Vec<Parameter<'_>> = borrowed(&filter).into_iter().chain(show_input).collect();
        let wanted = usize::try_from(self.top)?;
        let (mut instances, mut token) = (Vec::new(), None);
        loop {
            let top = (wanted - instances.len()).to_string();
            let query = [filters.as_slice(), &[("top", &top)]].concat();
            let page = client.instances(&query, token.as_deref())?;
            instances.extend(page.instances);
            token = page.next;
            if token.is_none() || instances.len() >= wanted {
                instances.truncate(wanted);
                return Ok((instances, token.is_some()));
            }
        }
    }
}

fn table(instances: &[Instance], now_ms: u64) -> Table {
    let mut table = Table::new(&["ID", "FUNCTION", "STATUS", "CREATED", "UPDATED"]).whole_for_programs();
    let time = |text: &str| moment::milliseconds(text).map_or_else(|| text.to_owned(), |then_ms| relative(now_ms, then_ms));
    for instance in instances {
        let status = &instance.runtime_status;
        table.row([
            instance.instance_id.as_str().into(),
            instance.name.as_str().into(),
            Cell::toned(status, Tone::of_status(status)),
            time(&instance.created_time).into(),
            time(&instance.last_updated_time).into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_a_line_with_when_it_began_and_changed() {
        let instance = |id: &str, status: &str| {
            serde_json::from_str(&format!(
                r#"{{"name":"BakeBread","instanceId":"{id}","runtimeStatus":"{status}","input":null,"customStatus":null,
                "output":null,"createdTime":"2026-03-01T08:00:00Z","lastUpdatedTime":"2026-03-01T09:00:00Z"}}"#
            ))
            .unwrap()
        };
        let instances = [instance("loaf-17", "Running"), instance(&"0123456789abcdef".repeat(6), "Completed")];
        let expected = "\
ID                                                  FUNCTION   STATUS     CREATED  UPDATED
loaf-17                                             BakeBread  Running    1h ago   10s ago
0123456789abcdef0123456789abcdef0123456789abcdef0…  BakeBread  Completed  1h ago   10s ago";
        assert_eq!(table(&instances, 1_772_355_610_000).fitted(92), expected);
    }
}
