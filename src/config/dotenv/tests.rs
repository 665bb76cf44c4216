use proptest::prelude::*;

use super::*;

fn read_text(text: &[u8]) -> Result<Vec<(String, String)>, DotenvError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(".env");
    fs::write(&path, text).unwrap();
    read(&path)
}

fn value(line: &str) -> String {
    let pairs = read_text(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"));
    assert_eq!(pairs.len(), 1, "{line}");
    pairs[0].1.clone()
}

fn message(text: &str) -> String {
    read_text(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn the_vendors_sample_line_keeps_its_equals_sign() {
    let line = "SECTIGO_AUDIT_API_CLIENT_SECRET==m0sfj!RQZNp]d2C8DIf1qM8V6jjnAEy";
    assert_eq!(value(line), "=m0sfj!RQZNp]d2C8DIf1qM8V6jjnAEy");
}

#[test]
fn everything_between_single_quotes_is_taken_as_it_is() {
    for secret in [
        "a#b",
        "a #b",
        "#a",
        "$HOME",
        "a$",
        "${x}",
        " a b ",
        "\"a\"",
        "\\",
        "a\\\\",
        "a\\n",
        "a\\\\\\",
        "=",
        "`;&|<>*?~",
        "ü",
    ] {
        for after in ["", " ", " # it's", "\n", "\r\n"] {
            assert_eq!(value(&format!("DD_API_KEY='{secret}'{after}")), secret);
        }
    }
}

#[test]
fn a_single_quote_fits_into_double_quotes() {
    assert_eq!(value(r#"DD_API_KEY="it's a \"b\" \\ \$c""#), r#"it's a "b" \ $c"#);
}

#[test]
fn usual_spellings_are_read() {
    let text =
        "\u{feff}# first\r\n\r\nDD_SITE = datadoghq.eu # why\r\n  export DD_ENV=prod\nDD_TAGS=\n\nDD_SERVICE=\"a b\"  ";
    let pairs = read_text(text.as_bytes()).unwrap();
    let expected = [("DD_SITE", "datadoghq.eu"), ("DD_ENV", "prod"), ("DD_TAGS", ""), ("DD_SERVICE", "a b")];
    assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn a_value_may_refer_to_an_earlier_one_or_to_the_environment() {
    let pairs = read_text(b"AUDITSYNC_TEST_A=x\nAUDITSYNC_TEST_B=${AUDITSYNC_TEST_A}y\n").unwrap();
    assert_eq!(pairs[1].1, "xy");
    assert_eq!(value("AUDITSYNC_TEST_A=${PATH}"), env::var("PATH").unwrap());
}

#[test]
fn a_value_that_would_lose_a_name_is_a_mistake_with_its_line() {
    for value in ["hunter2$x9y", "hunter2$", "\"hunter2$x9y z\"", "hunter2${x9y}", "hunter2$!z", "$hunter2"] {
        let message = message(&format!("# first\n\nDD_API_KEY={value}\n"));
        assert!(message.contains("line 3, DD_API_KEY: would lose a $"), "{value}: {message}");
        assert!(message.contains("single quotes: NAME='value'") && !message.contains("hunter2"), "{message}");
    }
}

#[test]
fn a_secret_that_would_lose_characters_is_a_mistake() {
    for value in ["hunter2\\\\x", "hunt\"er2\"", "'hunter2'x", "hunter2\\", "#hunter2", "hunter2 #x"] {
        let message = message(&format!("DD_API_KEY={value}\n"));
        assert!(message.contains("line 1, DD_API_KEY: would lose a quote"), "{value}: {message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
    assert!(message("DD_SERVICE=ab\\\n").contains("line 1, DD_SERVICE: would lose a quote, a backslash"));
    assert_eq!(value("DD_SERVICE=a\\ b # why"), "a b");
}

#[test]
fn a_line_that_is_no_entry_is_named_by_its_number_alone() {
    for line in ["hunter2", "DD-KEY=hunter2", "hunter2=a b", "=hunter2", "9A=hunter2", "HUNTER2=a b"] {
        let message = message(&format!("DD_SITE=datadoghq.eu\n{line}\nDD_ENV=prod\n"));
        assert!(message.contains("\n  line 2: is not NAME=value"), "{line}: {message}");
        assert!(!message.to_lowercase().contains("hunter2"), "{message}");
    }
    let message = message("HTTPS_PROXY=http://me:hunter2@proxy x\n");
    assert!(message.contains("line 1, HTTPS_PROXY: is not NAME=value") && !message.contains("hunter2"), "{message}");
}

#[test]
fn a_quote_that_is_not_closed_does_not_swallow_other_variables() {
    for text in [
        "DD_API_KEY=hunter'2\nDD_SITE=datadoghq.com\nDD_ENV=it's\n",
        "OTHER_KEY=hunter'2\nDD_SITE=datadoghq.com\nDD_ENV=it's\n",
    ] {
        let message = message(text);
        assert!(message.contains("line 1, ") && message.contains("goes on over the next lines"), "{message}");
        assert!(!message.contains("hunter"), "{message}");
    }
    assert!(message("DD_API_KEY='hunter2\n").contains("line 1, DD_API_KEY: "));
    assert!(message("OTHER_KEY=\"x\" # y\nPROXY_KEY='b\n").contains("line 2, PROXY_KEY: "));
    assert!(message("DD_TAGS='a\nb'\n").contains("line 1, DD_TAGS: goes on over the next lines"));
    assert!(message("OTHER_KEY='b\\'x # y\nPROXY_KEY='b\n").contains("line 1, OTHER_KEY: goes on"));
    assert_eq!(value("OTHER_KEY='a\nb'"), "a\nb");
}

#[test]
fn all_mistakes_are_reported_with_their_lines() {
    let message = message("DD_SITE=a b\n# x\nDD_ENV=$nope9\n\nDD_TAGS=ok\nDD_TAGS=again\n");
    for part in ["line 1, DD_SITE: ", "line 3, DD_ENV: ", "line 6, DD_TAGS: is set already in line 5"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_long_line_does_not_shift_the_count() {
    let message = message(&format!("DD_TAGS={}\nDD_ENV=$nope9\n", "x".repeat(100_000)));
    assert!(message.contains("line 2, DD_ENV"), "{message}");
}

#[test]
fn a_nul_byte_is_a_mistake_and_no_panic() {
    assert!(message("DD_ENV=a\0b\n").contains("holds a NUL byte"));
}

#[test]
fn no_file_is_no_variables() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(read(&folder.path().join(".env")).unwrap(), []);
    assert!(load(&folder.path().join(".env")).is_ok());
}

#[test]
fn what_is_no_readable_text_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let error = load(folder.path()).unwrap_err();
    assert!(matches!(&error, DotenvError::Unreadable { path, .. } if path == folder.path()), "{error}");
    let error = read_text(b"DD_ENV=prod\n\nDD_TAGS=\xff\n").unwrap_err();
    assert!(error.to_string().ends_with(".env, line 3: is not text in UTF-8"), "{error}");
}

/// Runs `load` on `text` in a process of its own, because the environment belongs to all threads, and gives what it
/// then finds under `DD_ENV` and `DD_TAGS`.
fn loaded(text: &str, dd_env: Option<&std::ffi::OsStr>) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(".env"), text).unwrap();
    let mut child = std::process::Command::new(env::current_exe().unwrap());
    child.args(["--exact", "config::dotenv::tests::child", "--ignored", "--nocapture", "--test-threads=1"]);
    child.current_dir(folder.path()).env_remove("DD_ENV").env_remove("DD_TAGS");
    if let Some(value) = dd_env {
        child.env("DD_ENV", value);
    }
    let output = child.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "run by others in a process of its own"]
fn child() {
    match load(Path::new(".env")) {
        Ok(()) => println!("<{:?} {:?}>", env::var_os("DD_ENV"), env::var_os("DD_TAGS")),
        Err(error) => println!("<{error}>"),
    }
}

#[test]
fn loading_sets_what_the_environment_does_not_have() {
    let text = "DD_ENV=file\nDD_TAGS='a #$b\\'";
    assert!(loaded(text, None).contains(r#"<Some("file") Some("a #$b\\")>"#));
    assert!(loaded(text, Some("real".as_ref())).contains(r#"<Some("real") Some("a #$b\\")>"#));
    assert!(loaded(text, Some("".as_ref())).contains(r#"<Some("") Some("a #$b\\")>"#));
}

#[test]
fn loading_sets_nothing_if_there_is_a_mistake() {
    assert!(loaded("DD_ENV=file\nDD_TAGS=a b\n", None).contains("line 2, DD_TAGS"));
}

#[cfg(unix)]
#[test]
fn loading_does_not_replace_what_is_not_text() {
    use std::os::unix::ffi::OsStrExt;
    let broken = std::ffi::OsStr::from_bytes(b"\xff");
    assert!(loaded("DD_ENV=file\n", Some(broken)).contains("line 1, DD_ENV: is in the environment too"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_secret_in_single_quotes_loads_to_the_byte(secret in "[^'\r\n\0]{1,40}", next in "[a-z]{1,5}") {
        let pairs = read_text(format!("DD_API_KEY='{secret}'\nDD_ENV={next}\n").as_bytes()).unwrap();
        prop_assert_eq!(&pairs[0].1, &secret);
        prop_assert_eq!(&pairs[1].1, &next);
    }

    #[test]
    fn a_bare_secret_loads_to_the_byte_or_not_at_all(
        // One that begins with a quote may be quoted, and blanks at its ends are not part of it.
        secret in r#"[a-c$#\\={}!~]([a-c$#'"\\ ={}!~]{0,10}[a-c$#'"\\={}!~])?"#,
    ) {
        if let Ok(pairs) = read_text(format!("DD_API_KEY={secret}\nDD_ENV=prod\n").as_bytes()) {
            prop_assert_eq!(&pairs[0].1, &secret);
            prop_assert_eq!(&pairs[1].1, "prod");
        }
    }

    #[test]
    fn no_message_shows_any_of_a_value(
        name in "(DD_API_KEY|DD_TAGS|OTHER|X_Y)",
        noise in r#"[$#'"\\ ={}]{1,6}"#,
        more in r#"[$#'"\\ ={}\n]{0,6}"#,
    ) {
        if let Err(error) = read_text(format!("{name}=hunter{noise}hunter{more}hunter\n").as_bytes()) {
            prop_assert!(!format!("{error} {error:?}").contains("hunter"), "{}", error);
        }
    }
}
