//! How are tags given to a command? As NAME=VALUE, which become parameters of the query.

use super::client::Parameter;
use crate::model::Tags;

/// A tag of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    parameter: String,
    value: String,
}

/// The tag that `NAME=VALUE` says.
pub(super) fn tag(text: &str) -> Result<Tag, String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, such as customer=17")?;
    // Blanks around it get lost on the way, so that what is stored would not be what was written.
    let value = value.trim();
    Tags::new([(name.to_owned(), value.to_owned())]).map_err(|error| error.to_string())?;
    Ok(Tag { parameter: format!("tag.{name}"), value: value.to_owned() })
}

/// Tags as the server wants to be told of them.
pub(super) fn parameters(tags: &[Tag]) -> Vec<Parameter<'_>> {
    tags.iter().map(|tag| (tag.parameter.as_str(), tag.value.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_a_name_and_a_value() {
        let taken = ["shop=north", "a.b=", "x= rye=1 "].map(|text| tag(text).unwrap());
        assert_eq!(parameters(&taken), [("tag.shop", "north"), ("tag.a.b", ""), ("tag.x", "rye=1")]);
        for (text, expected) in [("shop", "NAME=VALUE"), ("=north", "1 to 64"), ("a b=1", "letters, digits")] {
            let error = tag(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(tag(&format!("a={}", "x".repeat(257))).unwrap_err().contains("may have 256"));
    }
}
