//! What does a query string say? The contract's own reading of it, which is more forgiving than most.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

use super::links::Target;
use crate::model::{HubName, RuntimeStatus, StoreName, TagError, Tags};

/// The statuses by their numbers on the wire, those too that nothing here ever has.
pub(super) const STATUSES: [&str; 8] =
    ["Running", "Completed", "ContinuedAsNew", "Failed", "Canceled", "Terminated", "Pending", "Suspended"];

/// What the names of parameters begin with that are labels.
const TAG: &str = "tag.";

/// From here on a time is the latest that there is. .NET's last one, by which clients mean no end, is past the last that has a name in every
/// time zone.
const LAST_DAY: DateTime = DateTime::constant(9999, 12, 30, 0, 0, 0, 0);

/// How many pieces of a query are read. Each is compared with all before it, also for who has no key.
const PIECES_MAX: usize = 100;

/// The parameters of a request. Names count without regard to case, except those of labels behind `tag.`; what nobody asks for is
/// ignored.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string. A piece without `=` is ignored, and the values of a repeated name are joined with commas; labels stay
    /// apart.
    pub(super) fn parse(text: &str) -> Self {
        let mut parameters: Vec<(String, String)> = Vec::new();
        for piece in text.split('&').filter(|piece| piece.contains('=')).take(PIECES_MAX) {
            for (name, value) in form_urlencoded::parse(piece.as_bytes()) {
                let (name, value) = (name.trim(), value.trim());
                let known = parameters.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name));
                match known.filter(|_| tag_name(name).is_none()) {
                    Some((_, values)) => {
                        values.push(',');
                        values.push_str(value);
                    }
                    None => parameters.push((name.to_owned(), value.to_owned())),
                }
            }
        }
        Self(parameters)
    }

    /// The value of a parameter, without the blanks around it; it may be empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// `true` or `false` in any case. Anything else, `1` and `yes` too, counts as absent.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        let value = self.text(name)?;
        [true, false].into_iter().find(|flag| value.eq_ignore_ascii_case(if *flag { "true" } else { "false" }))
    }

    /// A decimal number of seconds, perhaps with a sign and a fraction. Anything else counts as absent.
    pub(super) fn seconds(&self, name: &str) -> Option<f64> {
        let value = self.text(name)?;
        // Rust would also read "inf", "nan" and "1e9".
        let decimal = value.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'+' | b'-'));
        value.parse().ok().filter(|seconds: &f64| decimal && seconds.is_finite())
    }

    /// A decimal whole number, perhaps with a sign. Anything else counts as absent.
    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        self.text(name)?.parse().ok()
    }

    /// A time in ISO 8601, in UTC unless it has an offset, or as Americans write it (`3/10/2018 10:01:00 AM`), in UTC. Anything else
    /// counts as absent.
    pub(super) fn time(&self, name: &str) -> Option<Timestamp> {
        let mut text = self.text(name)?.to_owned();
        if let Ok(time) = DateTime::strptime("%m/%d/%Y %I:%M:%S %p", &text) {
            return Offset::UTC.to_timestamp(time).ok();
        }
        // The sign of an offset, if nobody has escaped it.
        if let Some((time, offset)) = text.rsplit_once(' ')
            && time.contains(':')
        {
            text = format!("{time}+{offset}");
        }
        // Some clients leave out the zeros of an early year.
        if let Some(digits @ 1..4) = text.find('-') {
            text.insert_str(0, &"000"[digits - 1..]);
        }
        let civil = || text.trim_end_matches(['Z', 'z']).parse::<DateTime>().ok();
        let last_day = || civil().filter(|time| *time >= LAST_DAY).map(|_| Timestamp::MAX);
        text.parse().ok().or_else(|| Offset::UTC.to_timestamp(civil()?).ok()).or_else(last_day)
    }

    /// A list of statuses, by name in any case or by number. Unknown ones are passed over, and if no other is left, the list counts as
    /// absent. One that no instance here can have stays, though as nothing.
    pub(super) fn statuses(&self, name: &str) -> Option<Vec<RuntimeStatus>> {
        let number = |text: &str| {
            let is_it = |(number, name): &(usize, &str)| text.eq_ignore_ascii_case(name) || text == number.to_string();
            STATUSES.into_iter().enumerate().find(is_it).and_then(|(number, _)| u8::try_from(number).ok())
        };
        let numbers: Vec<u8> = self.text(name)?.split(',').filter_map(|text| number(text.trim())).collect();
        (!numbers.is_empty()).then(|| numbers.into_iter().filter_map(RuntimeStatus::from_number).collect())
    }

    /// All of them, in the order in which they were first given.
    #[cfg(test)]
    pub(super) fn pieces(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The labels: parameters `tag.NAME=VALUE`.
    ///
    /// # Errors
    /// If they break the rules of labels, or one is given twice.
    pub(super) fn tags(&self) -> Result<Tags, TagError> {
        Tags::new(self.labels())
    }

    /// The labels of an instance that is to be started: those, and `version`, if the client gives one, as the contract has it.
    ///
    /// # Errors
    /// As [`Self::tags`].
    pub(super) fn tags_of_start(&self) -> Result<Tags, TagError> {
        let version = self.text("version").filter(|version| !version.is_empty());
        Tags::new(self.labels().chain(version.map(|version| ("version".to_owned(), version.to_owned()))))
    }

    fn labels(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().filter_map(|(name, value)| Some((tag_name(name)?.to_owned(), value.clone())))
    }

    /// Which hub and which of the `stores` are meant; blank or absent means the default one, which is the first store.
    ///
    /// # Errors
    /// If the hub's name is ill-formed or the store is none that is configured: one sentence that says so.
    pub(super) fn target<'a>(
        &self,
        default_hub: &HubName,
        mut stores: impl Iterator<Item = &'a StoreName> + Clone,
    ) -> Result<Target, String> {
        let given = |name| self.text(name).filter(|value| !value.is_empty());
        let hub = match given("taskHub") {
            None => default_hub.clone(),
            Some(name) => name.parse().map_err(|error| format!("{error}"))?,
        };
        let all = stores.clone();
        let connection = match given("connection") {
            None => stores.next(),
            Some(name) => stores.find(|store| store.as_str().eq_ignore_ascii_case(name)),
        };
        let connection = connection.cloned().ok_or_else(|| {
            let name = given("connection").unwrap_or_default();
            let shown = |(number, store)| format!("{store:?}{}", if number == 0 { " (the default)" } else { "" });
            let all: Vec<_> = all.enumerate().map(shown).collect();
            format!("connection {name:?} is not configured; there is {}", all.join(" and "))
        })?;
        Ok(Target { hub, connection })
    }
}

/// The name of the label that the parameter `name` gives, if it gives one.
fn tag_name(name: &str) -> Option<&str> {
    let (start, rest) = name.split_at_checked(TAG.len())?;
    start.eq_ignore_ascii_case(TAG).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_case_and_values_no_blanks_around() {
        for (query, expected) in [
            ("", None),
            ("hub", None),
            ("hub=", Some("")),
            ("hub=a", Some("a")),
            ("HUB=a", Some("a")),
            ("x=1&hub=a&y=2", Some("a")),
            ("+hub+=+a+b+", Some("a b")),
            ("hub=a%20b%2B", Some("a b+")),
            ("hub=a=b", Some("a=b")),
            ("hub=a&hub=b&Hub=c", Some("a,b,c")),
            ("hub=a&hub&&=&", Some("a")),
            ("h%75b=a", Some("a")),
            ("hub=%FF%zz", Some("\u{fffd}%zz")),
        ] {
            assert_eq!(Query::parse(query).text("hub"), expected, "{query}");
        }
    }

    #[test]
    fn only_true_and_false_are_booleans() {
        for (text, expected) in
            [("true", Some(true)), ("True", Some(true)), ("+FALSE+", Some(false)), ("1", None), ("yes", None), ("", None)]
        {
            assert_eq!(Query::parse(&format!("x={text}")).flag("x"), expected, "{text}");
        }
        assert_eq!(Query::parse("x=true&x=true").flag("x"), None);
    }

    #[test]
    fn only_plain_decimal_numbers_are_seconds() {
        for (text, expected) in [
            ("5", Some(5.0)),
            ("0.5", Some(0.5)),
            ("-1", Some(-1.0)),
            ("%2B2", Some(2.0)),
            (".25", Some(0.25)),
            ("1e3", None),
            ("inf", None),
            ("NaN", None),
            ("0,5", None),
            ("5s", None),
            ("", None),
            (&"9".repeat(400), None),
        ] {
            assert_eq!(Query::parse(&format!("x={text}")).seconds("x"), expected, "{text}");
        }
    }

    #[test]
    fn whole_numbers_may_have_a_sign_and_nothing_else() {
        for (text, expected) in [
            ("5", Some(5)),
            ("-1", Some(-1)),
            ("%2B2", Some(2)),
            ("5.0", None),
            ("five", None),
            ("", None),
            (&"9".repeat(40), None),
        ] {
            assert_eq!(Query::parse(&format!("x={text}")).integer("x"), expected, "{text}");
        }
    }

    #[test]
    fn times_are_iso_8601_and_utc_unless_they_say_otherwise() {
        for (text, expected) in [
            ("2026-03-01T08:00:00Z", Some("2026-03-01T08:00:00Z")),
            ("2026-03-01T08:00:00.000Z", Some("2026-03-01T08:00:00Z")),
            ("2026-03-01T08:00:00.123000Z", Some("2026-03-01T08:00:00.123Z")),
            ("2026-03-01T08:00:00.1234567", Some("2026-03-01T08:00:00.1234567Z")),
            ("2026-03-01T08:00:00", Some("2026-03-01T08:00:00Z")),
            ("2026-03-01+08:00:00", Some("2026-03-01T08:00:00Z")),
            ("2026-03-01T08:00:00%2B02:00", Some("2026-03-01T06:00:00Z")),
            ("2026-03-01T08:00:00+02:00", Some("2026-03-01T06:00:00Z")),
            ("2026-03-01T08:00:00-0200", Some("2026-03-01T10:00:00Z")),
            ("2026-03-01T08%3A00%3A00Z", Some("2026-03-01T08:00:00Z")),
            ("+2026-03-01+", Some("2026-03-01T00:00:00Z")),
            ("1-01-01T00:00:00Z", Some("0001-01-01T00:00:00Z")),
            ("0001-01-01T00:00:00.0000000Z", Some("0001-01-01T00:00:00Z")),
            ("70-01-01T00:00:00", Some("0070-01-01T00:00:00Z")),
            ("3/10/2018+10:01:00+AM", Some("2018-03-10T10:01:00Z")),
            ("03/10/2018%2012:01:00%20pm", Some("2018-03-10T12:01:00Z")),
            ("13/10/2018+10:01:00+AM", None),
            ("3/10/2018+13:01:00+PM", None),
            ("", None),
            ("-", None),
            ("yesterday", None),
            ("9999-12-31T23:59:59.9999999Z", Some("9999-12-30T22:00:00.999999999Z")),
            ("9999-12-31", Some("9999-12-30T22:00:00.999999999Z")),
            ("9999-12-32", None),
            ("2026-02-30T00:00:00Z", None),
            ("2026-03-01T08:00:00Z+x", None),
            ("1767225600", None),
        ] {
            let seen = Query::parse(&format!("x={text}")).time("x").map(|time| time.to_string());
            assert_eq!(seen.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn statuses_are_named_or_numbered_and_unknown_ones_do_not_count() {
        use RuntimeStatus::{Completed, Failed, Pending, Running};
        for (query, expected) in [
            ("", None),
            ("s=", None),
            ("s=Failed", Some(vec![Failed])),
            ("s=failed,COMPLETED", Some(vec![Failed, Completed])),
            ("s=Running&s=Pending", Some(vec![Running, Pending])),
            ("s=+Running+,+6,0", Some(vec![Running, Pending, Running])),
            ("s=Unknown", None),
            ("s=Unknown,8,-1,00,Failed", Some(vec![Failed])),
            ("s=Canceled", Some(vec![])),
            ("s=ContinuedAsNew,4,2", Some(vec![])),
        ] {
            assert_eq!(Query::parse(query).statuses("s"), expected, "{query}");
        }
        for (number, name) in STATUSES.iter().enumerate() {
            let by_name = Query::parse(&format!("s={name}")).statuses("s");
            assert_eq!(by_name, Query::parse(&format!("s={number}")).statuses("s"));
            assert!(by_name.expect("it is known").iter().all(|status| status.name() == *name));
        }
    }

    #[test]
    fn labels_are_parameters_whose_case_counts_behind_the_dot() {
        let check = |query: &str, expected: Result<&[(&str, &str)], &str>| match (Query::parse(query).tags(), expected) {
            (Ok(tags), Ok(expected)) => assert_eq!(tags.iter().collect::<Vec<_>>(), expected, "{query}"),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{query}: {error}"),
            (seen, _) => panic!("{query}: {seen:?}"),
        };
        check("tag=a&tags.x=1&xtag.y=2&tag%C3%BC.x=1", Ok(&[]));
        check("tag.shop=north&TAG.kind=+rye+bread+&x=1", Ok(&[("kind", "rye bread"), ("shop", "north")]));
        check("tag.Shop=a&tag.shop=b", Ok(&[("Shop", "a"), ("shop", "b")]));
        check("tag.a.b-c_9=&tag.x=%3D%26", Ok(&[("a.b-c_9", ""), ("x", "=&")]));
        check("tag.shop=a&tag.shop=a", Err("tag \"shop\" is given twice"));
        check("tag.=a", Err("the name of tag \"\" must be 1 to 64"));
        check("tag.a+b=1", Err("the name of tag \"a b\" must be"));
        check(&format!("tag.a={}", "x".repeat(257)), Err("may have 256"));
        let many: Vec<String> = (0..17).map(|number| format!("tag.n{number}=")).collect();
        check(&many.join("&"), Err("16 tags"));
    }

    #[test]
    fn the_version_of_a_start_is_a_label() {
        let shown = |query: &str| {
            let tags = Query::parse(query).tags_of_start().map_err(|error| error.to_string())?;
            Ok::<_, String>(tags.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(shown("VERSION=+2.0+&tag.shop=north"), Ok("shop=north version=2.0".into()));
        assert_eq!(shown("version=+"), Ok(String::new()));
        assert_eq!(shown("version=2&tag.version=2"), Err("tag \"version\" is given twice".into()));
        assert_eq!(Query::parse("version=2").tags(), Ok(Tags::default()), "a list knows no version");
    }

    #[test]
    fn the_target_is_the_default_one_unless_named() {
        let check = |query: &str, expected: Result<&str, &str>| {
            let stores = [StoreName::default_store(), "Archive".parse().unwrap()];
            let seen = Query::parse(query).target(&HubName::default_hub(), stores.iter());
            let seen = seen.map(|target| format!("{} {}", target.hub, target.connection));
            match expected {
                Ok(target) => assert_eq!(seen.as_deref(), Ok(target), "{query}"),
                Err(part) => assert!(seen.as_ref().is_err_and(|error| error.contains(part)), "{query}: {seen:?}"),
            }
        };
        check("", Ok("DurableFunctionsHub Storage"));
        check("taskHub=+&connection=", Ok("DurableFunctionsHub Storage"));
        check("TASKHUB=Bakery&connection=storage", Ok("Bakery Storage"));
        check("taskHub=b-c", Err("task hub name \"b-c\" must be"));
        check("taskHub=Bakery&taskHub=Bakery", Err("task hub name"));
        check("connection=+ARCHIVE+", Ok("DurableFunctionsHub Archive"));
        check(
            "connection=Elsewhere",
            Err("connection \"Elsewhere\" is not configured; there is \"Storage\" (the default) and \"Archive\""),
        );
        check("connection=Archive&connection=Archive", Err("connection \"Archive,Archive\" is not configured"));
        check("connectionName=Elsewhere", Ok("DurableFunctionsHub Storage"));
    }
}
