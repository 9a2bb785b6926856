//! Which instances does a command mean? Those that meet all conditions that it was given.

use clap::builder::PossibleValuesParser;
use jiff::Timestamp;

use super::client::Parameter;
use super::moment;
use super::tag::{self, Tag};

/// What a status can be.
pub(super) const STATUSES: [&str; 8] =
    ["Running", "Completed", "ContinuedAsNew", "Failed", "Canceled", "Terminated", "Pending", "Suspended"];

/// Conditions that an instance has to meet.
#[derive(Debug, clap::Args)]
pub(super) struct Filter {
    /// Only those with one of these statuses
    #[arg(long, value_name = "S,...", value_delimiter = ',', hide_possible_values = true, ignore_case = true, value_parser = PossibleValuesParser::new(STATUSES))]
    status: Vec<String>,

    /// Only those whose ID begins like this
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,

    /// Only those with this tag; of several, with all
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = tag::tag)]
    tags: Vec<Tag>,

    /// Only those created then or later
    #[arg(long, value_name = "TIME", value_parser = moment::moment)]
    created_after: Option<Timestamp>,

    /// Only those created then or before
    #[arg(long, value_name = "TIME", value_parser = moment::moment)]
    created_before: Option<Timestamp>,
}

impl Filter {
    /// Whether there is no condition.
    pub(super) fn is_empty(&self) -> bool {
        self.parameters().is_empty()
    }

    /// Whether it says since when.
    pub(super) fn has_beginning(&self) -> bool {
        self.created_after.is_some()
    }

    /// The conditions as parameters of a query.
    pub(super) fn parameters(&self) -> Vec<(String, String)> {
        let statuses = (!self.status.is_empty()).then(|| self.status.join(","));
        let conditions = [
            ("runtimeStatus", statuses),
            ("instanceIdPrefix", self.prefix.clone()),
            ("createdTimeFrom", self.created_after.map(|time| time.to_string())),
            ("createdTimeTo", self.created_before.map(|time| time.to_string())),
        ];
        let conditions = conditions.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let tags = tag::parameters(&self.tags).into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        conditions.chain(tags).collect()
    }
}

/// The parameters as a request takes them.
pub(super) fn borrowed(parameters: &[(String, String)]) -> Vec<Parameter<'_>> {
    parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}
