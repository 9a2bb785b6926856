//! `dacapo list`: which instances are there?

use anyhow::Result;

use super::client::{self, Client, Page, Parameter};
use super::connection::Connection;
use super::filter::{Filter, STATUSES, borrowed};
use super::output::{Cell, Table, Tone, brief, relative, say, say_data};
use super::wire::Instance;
use super::{moment, tell};
use crate::clock::Clock;

/// How many instances are shown if nobody says how many.
const TOP: &str = "50";

/// How many instances are asked for at once when all are wanted.
const PAGE: usize = 1_000;

fn about() -> String {
    let statuses = STATUSES.join(", ");
    format!(
        "Statuses are {statuses}.\nWith --prefix they are listed by ID.\n\n{}\n\nExamples:\n  dacapo list --status Failed,Terminated --created-after 2h\n  dacapo list --prefix loaf- --top 1000 --json\n  dacapo list --tag shop=north --tag kind=rye --all",
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

    /// All of them, however many
    #[arg(long, conflicts_with = "top")]
    all: bool,

    /// Whether inputs are shown, true or false; without it, only with --json
    #[arg(long, value_name = "BOOL", hide_possible_values = true)]
    show_input: Option<bool>,

    /// Print a JSON array of statuses, as the server gives them
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

impl List {
    pub(super) fn run(self) -> Result<()> {
        let client = self.connection.client()?.spinning();
        let has_more = if self.json { self.print(&client)? } else { self.tabulate(&client)? };
        if has_more {
            tell(format_args!("These are the first {}; --top shows more, --all shows all", self.top));
        }
        Ok(())
    }

    /// Prints JSON, page by page, so that not all of them are held at once. Whether there are more.
    fn print(&self, client: &Client) -> Result<bool> {
        let mut line = String::from("[");
        let mut is_first = true;
        let has_more = self.pages(client, |page| {
            // The page before this one is not the last, whose line ends the array.
            if !is_first {
                say_data(&std::mem::take(&mut line))?;
            }
            for instance in &page.instances {
                if !is_first {
                    line.push(',');
                }
                is_first = false;
                line.push_str(instance.get());
            }
            Ok(())
        })?;
        say_data(&(line + "]"))?;
        Ok(has_more)
    }

    /// Prints a table. Whether there are more.
    fn tabulate(&self, client: &Client) -> Result<bool> {
        let mut instances: Vec<Instance> = Vec::new();
        let has_more = self.pages(client, |page| {
            for instance in &page.instances {
                instances.push(client::parse(instance.get())?);
            }
            Ok(())
        })?;
        if instances.is_empty() {
            tell("There is no such instance");
        } else {
            say(table(&instances, self.shows_input(), Clock.now_ms()).show())?;
        }
        Ok(has_more)
    }

    fn shows_input(&self) -> bool {
        self.show_input.unwrap_or(self.json)
    }

    /// Hands over the pages with as many instances as are wanted. Whether there are more.
    fn pages(&self, client: &Client, mut take: impl FnMut(&Page) -> Result<()>) -> Result<bool> {
        let filter = self.filter.parameters();
        let show_input = (!self.shows_input()).then_some(("showInput", "false"));
        let filters: Vec<Parameter<'_>> = borrowed(&filter).into_iter().chain(show_input).collect();
        let mut left = if self.all { usize::MAX } else { usize::try_from(self.top)? };
        let mut token = None;
        loop {
            let top = left.min(PAGE).to_string();
            let query = [filters.as_slice(), &[("top", &top)]].concat();
            let mut page = client.instances(&query, token.as_deref())?;
            page.instances.truncate(left);
            left -= page.instances.len();
            take(&page)?;
            token = page.next;
            if token.is_none() || left == 0 {
                return Ok(token.is_some());
            }
        }
    }
}

fn table(instances: &[Instance], with_input: bool, now_ms: u64) -> Table {
    let header = ["ID", "FUNCTION", "STATUS", "CREATED", "UPDATED", "INPUT"];
    let columns = if with_input { header.len() } else { header.len() - 1 };
    let mut table = Table::new(&header[..columns]).whole_for_programs();
    let time = |text: &str| moment::milliseconds(text).map_or_else(|| text.to_owned(), |then_ms| relative(now_ms, then_ms));
    for instance in instances {
        let status = &instance.runtime_status;
        let cells = [
            instance.instance_id.as_str().into(),
            instance.name.as_str().into(),
            Cell::toned(status, Tone::of_status(status)),
            time(&instance.created_time).into(),
            time(&instance.last_updated_time).into(),
        ];
        if with_input {
            let [id, function, status, created, updated] = cells;
            table.row([id, function, status, created, updated, brief(instance.input.get()).into()]);
        } else {
            table.row(cells);
        }
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
                r#"{{"name":"BakeBread","instanceId":"{id}","runtimeStatus":"{status}","input":{{"grams":  7.50}},"customStatus":null,
                "output":null,"createdTime":"2026-03-01T08:00:00Z","lastUpdatedTime":"2026-03-01T09:00:00Z"}}"#
            ))
            .unwrap()
        };
        let instances = [instance("loaf-17", "Running"), instance(&"0123456789abcdef".repeat(6), "Completed")];
        let expected = "\
ID                                                  FUNCTION   STATUS     CREATED  UPDATED
loaf-17                                             BakeBread  Running    1h ago   10s ago
0123456789abcdef0123456789abcdef0123456789abcdef0…  BakeBread  Completed  1h ago   10s ago";
        assert_eq!(table(&instances, false, 1_772_355_610_000).fitted(92), expected);
        let expected = "\
ID       FUNCTION   STATUS   CREATED  UPDATED  INPUT
loaf-17  BakeBread  Running  1h ago   10s ago  {\"grams\":  7.50}";
        assert_eq!(table(&instances[..1], true, 1_772_355_610_000).fitted(92), expected);
    }
}
