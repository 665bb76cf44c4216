//! Tags: one string joined by commas, because the intake does not understand a list.

/// The most tags that one entry may have.
const COUNT: usize = 100;

/// The longest tag, in characters.
const LENGTH: usize = 256;

/// Makes the tag of the environment called `text`.
pub(super) fn env(text: &str) -> Result<String, String> {
    let tag = format!("env:{text}");
    if text.contains(separates) || tag.chars().count() > LENGTH {
        return Err(format!("must be one word of at most {} characters", LENGTH - "env:".len()));
    }
    Ok(tag)
}

/// Joins the tags in `text`, which commas or blanks separate, and adds the tag `env` unless they have one.
pub(super) fn joined(text: &str, env: Option<&str>) -> Result<String, String> {
    let mut tags: Vec<&str> = text.split(separates).filter(|tag| !tag.is_empty()).collect();
    if tags.iter().any(|tag| tag.chars().count() > LENGTH) {
        return Err(format!("must hold tags of at most {LENGTH} characters each"));
    }
    let has_env = tags.iter().any(|tag| tag.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("env:")));
    tags.extend(env.filter(|_| !has_env));
    if tags.len() > COUNT {
        return Err(format!("must hold at most {COUNT} tags, with the one from DD_ENV"));
    }
    Ok(tags.join(","))
}

fn separates(c: char) -> bool {
    c == ',' || c.is_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_and_blanks_separate_alike() {
        for text in ["a:1,b:2", "a:1 b:2", " a:1 ,\t b:2,, ", "a:1\nb:2"] {
            assert_eq!(joined(text, None).as_deref(), Ok("a:1,b:2"), "{text:?}");
        }
        assert_eq!(joined(" , ", None).as_deref(), Ok(""));
    }

    #[test]
    fn the_environment_becomes_a_tag_unless_there_is_one() {
        assert_eq!(joined("a:1", Some("env:prod")).as_deref(), Ok("a:1,env:prod"));
        assert_eq!(joined("", Some("env:prod")).as_deref(), Ok("env:prod"));
        assert_eq!(joined("Env:test", Some("env:prod")).as_deref(), Ok("Env:test"));
        assert_eq!(joined("environment:x", Some("env:prod")).as_deref(), Ok("environment:x,env:prod"));
    }

    #[test]
    fn what_the_intake_does_not_keep_is_refused() {
        let many = vec!["t"; 100].join(",");
        assert!(joined(&many, None).is_ok());
        assert!(joined(&many, Some("env:prod")).is_err());
        assert!(joined(&format!("{many},t"), None).is_err());
        assert!(joined(&"ü".repeat(256), None).is_ok());
        assert!(joined(&"ü".repeat(257), None).is_err());
    }

    #[test]
    fn an_environment_is_one_word() {
        assert_eq!(env("prod").as_deref(), Ok("env:prod"));
        assert!(env(&"p".repeat(252)).is_ok());
        for text in ["a b", "a,b", &"p".repeat(253)] {
            assert!(env(text).is_err(), "{text}");
        }
    }
}
