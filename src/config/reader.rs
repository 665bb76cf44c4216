//! Reads variables one after another into their types, and collects every mistake.

use std::path::{Component, Path};

use secrecy::SecretString;

use super::environment::{Environment, file_name};
use super::mistakes::{Mistakes, Noted};
use super::variable::{Alias, Becomes, SOURCE_INFIX, Scope, SecretVariable, Spec, Variable};
use crate::secret::{Secret, SecretError};
use crate::variable_name::VariableName;

/// The owner of variables: a source, which has prefixes of its own, or the process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owner {
    prefixes: Vec<String>,
    aliases: Vec<Alias>,
}

impl Owner {
    /// The owner for a source of the kind `kind`, such as `sectigo`, with a `label` if several of its kind run.
    pub fn source(kind: &str, label: Option<&str>) -> Self {
        let kind = kind.to_ascii_uppercase();
        let labelled = label.map(|label| format!("{kind}_{}{SOURCE_INFIX}", label.to_ascii_uppercase()));
        Self { prefixes: labelled.into_iter().chain([format!("{kind}{SOURCE_INFIX}")]).collect(), ..Self::default() }
    }

    /// Lets the owner also read other software's variables.
    #[must_use]
    pub fn with_aliases(mut self, aliases: &[Alias]) -> Self {
        self.aliases.extend_from_slice(aliases);
        self
    }

    /// The process as the owner, without prefixes of its own.
    pub fn process() -> Self {
        Self::default()
    }

    /// The prefixes of the owner's variables, the most specific first.
    pub fn prefixes(&self) -> impl Iterator<Item = &str> {
        self.prefixes.iter().map(String::as_str)
    }

    /// The names of other software's variables from which this one can take its value.
    pub fn alias_names(&self, spec: &Spec) -> impl Iterator<Item = &'static str> {
        self.aliases(spec).map(|alias| alias.theirs)
    }

    fn aliases(&self, spec: &Spec) -> impl Iterator<Item = Alias> {
        let name = spec.name;
        self.aliases.iter().copied().filter(move |alias| alias.ours == name)
    }

    /// The names under which the owner reads the variable, the most specific first.
    pub fn names(&self, spec: &Spec) -> Vec<String> {
        let overriding =
            spec.suffix().into_iter().flat_map(|suffix| self.prefixes().map(move |prefix| format!("{prefix}{suffix}")));
        let own = (spec.scope != Scope::Source).then(|| spec.name.to_owned());
        overriding.chain(own).collect()
    }
}

/// Reads variables for one owner.
pub struct Reader<'a> {
    environment: &'a Environment,
    owner: &'a Owner,
    mistakes: &'a mut Mistakes,
}

/// A value, and the name under which it was set.
struct Given {
    name: VariableName,
    text: String,
}

impl<'a> Reader<'a> {
    /// Makes a reader of the `owner`'s variables in `environment`.
    pub fn new(environment: &'a Environment, owner: &'a Owner, mistakes: &'a mut Mistakes) -> Self {
        Self { environment, owner, mistakes }
    }

    /// Reads the value or the default; none without either.
    pub fn find<T>(&mut self, variable: &Variable<T>) -> Result<Option<T>, Noted> {
        self.find_with(variable, |text| variable.parse(text))
    }

    /// Reads like [`Self::find`], but with `parse`, for a value that depends on others.
    pub fn find_with<T, U>(
        &mut self,
        variable: &Variable<T>,
        parse: impl FnOnce(&str) -> Result<U, String>,
    ) -> Result<Option<U>, Noted> {
        let spec = &variable.spec;
        let given = self.given(spec)?.or_else(|| {
            let text = spec.default_value()?.to_owned();
            Some(Given { name: self.name(spec), text })
        });
        let Some(Given { name, text }) = given else { return Ok(None) };
        parse(&text).map(Some).map_err(|rule| self.mistakes.refuse(&name, spec, &text, rule))
    }

    /// Reads a value that must exist.
    pub fn get<T>(&mut self, variable: &Variable<T>) -> Result<T, Noted> {
        if let Some(value) = self.find(variable)? {
            return Ok(value);
        }
        let rule = format!("is required but not set. {}", variable.spec.description());
        Err(self.mistakes.refuse_name(&self.name(&variable.spec), rule))
    }

    /// Reads the secret, if there is one, from the variable, the file that `<NAME>_FILE` names, or a credential of systemd. A more specific
    /// name goes before all three of a more general one.
    pub fn find_secret(&mut self, variable: &SecretVariable) -> Result<Option<Secret>, Noted> {
        let Some(secret) = self.given_secret(&variable.spec)? else { return Ok(None) };
        let name = secret.variable().clone();
        secret.checked(variable.check).map(Some).map_err(|rule| self.mistakes.refuse_hidden(&name, rule))
    }

    /// Reads a secret that must exist.
    pub fn get_secret(&mut self, variable: &SecretVariable) -> Result<Secret, Noted> {
        if let Some(secret) = self.find_secret(variable)? {
            return Ok(secret);
        }
        let name = self.name(&variable.spec);
        let rule = format!("is required but not set, and neither is {}", file_name(name.as_str()));
        Err(self.mistakes.refuse_name(&name, rule))
    }

    /// The name under which the variable is set, else its documented name.
    pub fn name(&self, spec: &Spec) -> VariableName {
        let given = |name: &String| self.environment.value(name, spec).is_some();
        let names = self.owner.names(spec);
        let alias = self.owner.alias_names(spec).map(str::to_owned).find(given);
        let found = names.iter().find(|name| given(name)).or(alias.as_ref()).or(names.last());
        found.map_or_else(|| spec.name.into(), |name| name.as_str().into())
    }

    /// Whether the variable is set, even to an invalid value.
    pub fn is_given(&self, spec: &Spec) -> bool {
        let given = |name: &str| self.environment.value(name, spec).is_some();
        self.owner.names(spec).iter().any(|name| given(name)) || self.owner.alias_names(spec).any(given)
    }

    /// Notes that the value of the variable breaks `rule`.
    pub fn refuse(&mut self, spec: &Spec, rule: impl Into<String>) -> Noted {
        let name = self.name(spec);
        match self.environment.value(name.as_str(), spec) {
            Some(Ok(text)) => self.mistakes.refuse(&name, spec, &text, rule),
            _ => self.mistakes.refuse_name(&name, rule),
        }
    }

    /// Notes that a value that is or may contain a secret breaks `rule`.
    pub fn refuse_hidden(&mut self, name: &VariableName, rule: impl Into<String>) -> Noted {
        self.mistakes.refuse_hidden(name, rule)
    }

    /// Refuses proxy variables that the HTTP library would silently ignore.
    pub fn check_proxies(&mut self) -> Result<(), Noted> {
        super::proxy::check(self.environment, self.mistakes)
    }

    /// Tells whether the variable is set to nothing but blanks.
    pub fn is_blank(&self, spec: &Spec) -> bool {
        self.environment.raw(spec.name).is_some_and(|value| value.to_string_lossy().trim().is_empty())
    }

    fn given(&mut self, spec: &Spec) -> Result<Option<Given>, Noted> {
        for name in self.owner.names(spec) {
            match self.environment.value(&name, spec) {
                Some(Ok(text)) => return Ok(Some(Given { name: name.into(), text })),
                Some(Err(_)) => return Err(self.not_text(&name.into())),
                None => {}
            }
        }
        for Alias { theirs, becomes, .. } in self.owner.aliases(spec) {
            match self.environment.value(theirs, spec) {
                Some(Ok(text)) => {
                    let text = match becomes {
                        Becomes::Same => text,
                        Becomes::ItsFolder => {
                            text.rsplit_once('/').map(|(folder, _)| folder.to_owned()).unwrap_or_default()
                        }
                        Becomes::Fixed(value) => value.to_owned(),
                    };
                    let is_bare = spec.bounds.is_some() && text.bytes().all(|byte| byte.is_ascii_digit());
                    let text = if is_bare { format!("{text}s") } else { text };
                    return Ok(Some(Given { name: theirs.into(), text }));
                }
                Some(Err(_)) => return Err(self.not_text(&theirs.into())),
                None => {}
            }
        }
        Ok(None)
    }

    fn given_secret(&mut self, spec: &Spec) -> Result<Option<Secret>, Noted> {
        for name in self.owner.names(spec) {
            let file = VariableName::from(file_name(&name));
            match (self.environment.value(&name, spec), self.environment.path(file.as_str())) {
                (Some(Err(_)), _) => return Err(self.not_text(&name.into())),
                (_, Some(Err(_))) => return Err(self.not_text(&file)),
                (Some(Ok(_)), Some(Ok(_))) => {
                    let rule = format!("{file} is set too; keep one of the two");
                    return Err(self.mistakes.refuse_hidden(&name.into(), rule));
                }
                (Some(Ok(text)), None) => return Ok(Some(Secret::from_value(name, SecretString::from(text)))),
                (None, Some(Ok(path))) => return self.read_file(&file, &path).map(Some),
                (None, None) => {}
            }
            if let Some(path) = self.environment.credential(&name) {
                return self.read_file(&file, &path).map(Some);
            }
        }
        // None of our names is set, so this is other software's.
        let given = self.given(spec)?;
        Ok(given.map(|Given { name, text }| Secret::from_value(name, SecretString::from(text))))
    }

    fn not_text(&mut self, name: &VariableName) -> Noted {
        self.mistakes.refuse_name(name, "its value is not text in UTF-8")
    }

    fn read_file(&mut self, name: &VariableName, path: &Path) -> Result<Secret, Noted> {
        Secret::from_file(name.clone(), path.to_owned()).map_err(|error| {
            let rule = match error {
                SecretError::Unreadable { cause, .. } => format!("the file cannot be read: {cause}"),
                SecretError::Empty { .. } => "the file is empty".to_owned(),
                again @ (SecretError::Passing { .. } | SecretError::Unfit { .. }) => again.to_string(),
            };
            if is_surely_a_path(path) {
                self.mistakes.refuse_shown(name, &path.display().to_string(), rule)
            } else {
                let rule = format!("{rule} (the value must be a path, not the secret itself)");
                self.mistakes.refuse_hidden(name, rule)
            }
        })
    }
}

/// Whether `path` is a path and not a misplaced secret: it or one of its parent folders exists.
fn is_surely_a_path(path: &Path) -> bool {
    let named = |folder: &&Path| folder.components().any(|part| matches!(part, Component::Normal(_)));
    path.ancestors().filter(named).any(Path::exists)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use secrecy::ExposeSecret as _;

    use super::super::parse::Bounds;
    use super::super::variable::Preset;
    use super::*;

    const URL: Variable<String> = Variable::text(Scope::Source, "SECTIGO_AUDIT_API_URL", Preset::Required, "Address.");
    const TAGS: Variable<String> = Variable::text(Scope::Destination, "DD_TAGS", Preset::Nothing, "Tags.");
    const PAUSE: Variable<Duration> =
        Variable::time(Scope::Shared, "AUDITSYNC_PAUSE", "1m", Bounds::seconds(5, 600), "Pause.");
    const KEY: SecretVariable = SecretVariable::new(Scope::Destination, "DD_API_KEY", Preset::Required, "Key.");

    fn owner(label: Option<&str>) -> Owner {
        Owner::source("sectigo", label)
    }

    fn read<T>(
        pairs: &[(&str, &str)],
        label: Option<&str>,
        work: impl FnOnce(&mut Reader<'_>) -> Result<T, Noted>,
    ) -> Result<T, String> {
        let environment = Environment::from_pairs(pairs.iter().map(|(name, value)| (name.into(), value.into())));
        let (owner, mut mistakes) = (owner(label), Mistakes::default());
        let built = work(&mut Reader::new(&environment, &owner, &mut mistakes));
        mistakes.conclude(built, &[]).map_err(|error| error.to_string())
    }

    #[test]
    fn the_most_specific_name_holds() {
        let pause = |pairs: &[(&str, &str)]| read(pairs, Some("prod"), |reader| reader.get(&PAUSE)).unwrap().as_secs();
        let shared = ("AUDITSYNC_PAUSE", "6s");
        let of_kind = ("SECTIGO_AUDIT_PAUSE", "7s");
        let of_label = ("SECTIGO_PROD_AUDIT_PAUSE", "8s");
        assert_eq!(pause(&[]), 60);
        assert_eq!(pause(&[shared]), 6);
        assert_eq!(pause(&[shared, of_kind]), 7);
        assert_eq!(pause(&[shared, of_kind, of_label]), 8);
        assert_eq!(pause(&[shared, ("SECTIGO_AUDIT_PAUSE", "")]), 6, "empty means: not set");
    }

    #[test]
    fn other_softwares_name_counts_where_ours_is_not_set() {
        const ALIASES: &[Alias] = &[Alias::same("PAUSE", PAUSE.spec.name), Alias::same("THEIR_KEY", KEY.spec.name)];
        let owner = owner(None).with_aliases(ALIASES);
        let read = |pairs: &[(&str, &str)]| {
            let environment = Environment::from_pairs(pairs.iter().map(|(name, value)| (name.into(), value.into())));
            let mut mistakes = Mistakes::default();
            let mut reader = Reader::new(&environment, &owner, &mut mistakes);
            let pause = reader.get(&PAUSE).unwrap().as_secs();
            let key = reader.find_secret(&KEY).unwrap();
            (pause, key.map(|key| (key.variable().as_str().to_owned(), key.current().expose_secret().to_owned())))
        };
        let named = |name: &str, key: &str| Some((name.to_owned(), key.to_owned()));
        assert_eq!(read(&[("PAUSE", "7"), ("THEIR_KEY", "k")]), (7, named("THEIR_KEY", "k")));
        assert_eq!(read(&[("PAUSE", "2m")]), (120, None), "a unit counts");
        assert_eq!(read(&[("PAUSE", "7"), ("AUDITSYNC_PAUSE", "8s")]), (8, None));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "stored").unwrap();
        let pairs = [("THEIR_KEY", "k"), ("DD_API_KEY_FILE", file.path().to_str().unwrap())];
        assert_eq!(read(&pairs).1, named("DD_API_KEY_FILE", "stored"));
    }

    #[test]
    fn a_destinations_variable_may_be_set_for_one_source_alone() {
        let tags = |pairs: &[(&str, &str)]| read(pairs, None, |reader| reader.find(&TAGS)).unwrap();
        let both = [("DD_TAGS", "a"), ("SECTIGO_AUDIT_DD_TAGS", "b")];
        assert_eq!(tags(&both[..1]).as_deref(), Some("a"));
        assert_eq!(tags(&both).as_deref(), Some("b"));
        assert_eq!(tags(&[("AUDITSYNC_DD_TAGS", "c")]), None);
    }

    #[test]
    fn a_mistake_is_reported_under_the_name_that_was_used() {
        let pairs = [("AUDITSYNC_PAUSE", "6s"), ("SECTIGO_AUDIT_PAUSE", "1s")];
        let message = read(&pairs, None, |reader| reader.get(&PAUSE)).unwrap_err();
        assert!(message.contains("\n  SECTIGO_AUDIT_PAUSE=\"1s\": must be a time from 5s to 10m"), "{message}");
    }

    #[test]
    fn a_required_variable_that_is_missing_is_named_with_its_help() {
        let message = read(&[], Some("prod"), |reader| reader.get(&URL)).unwrap_err();
        assert!(message.ends_with("\n  SECTIGO_AUDIT_API_URL: is required but not set. Address."), "{message}");
    }

    #[test]
    fn a_secret_comes_from_its_variable_or_its_file_and_knows_which() {
        let secret = |pairs: &[(&str, &str)]| read(pairs, None, |reader| reader.get_secret(&KEY));
        let given = secret(&[("DD_API_KEY", " a#b$c ")]).unwrap();
        assert_eq!((given.variable().as_str(), given.current().expose_secret()), ("DD_API_KEY", " a#b$c "));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "=a'b\"\n").unwrap();
        let stored = secret(&[("SECTIGO_AUDIT_DD_API_KEY_FILE", file.path().to_str().unwrap())]).unwrap();
        let name = stored.variable().as_str();
        assert_eq!((name, stored.current().expose_secret()), ("SECTIGO_AUDIT_DD_API_KEY_FILE", "=a'b\""));
        let message = secret(&[("DD_API_KEY", "hunter2"), ("DD_API_KEY_FILE", "/etc/hostname")]).unwrap_err();
        assert!(message.contains("DD_API_KEY=[hidden]: DD_API_KEY_FILE is set too"), "{message}");
        let message = secret(&[]).unwrap_err();
        assert!(message.contains("DD_API_KEY: is required but not set, and neither is DD_API_KEY_FILE"), "{message}");
    }

    #[test]
    fn a_credential_of_systemd_stands_in_for_a_secret_that_is_not_given_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("dd-api-key"), "stored").unwrap();
        let credentials = ("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap());
        let secret = |pairs: &[(&str, &str)]| read(pairs, None, |reader| reader.get_secret(&KEY)).unwrap();
        for (pairs, value, name) in [
            (&[credentials][..], "stored", "DD_API_KEY_FILE"),
            (&[credentials, ("DD_API_KEY", "")], "stored", "DD_API_KEY_FILE"),
            (&[credentials, ("DD_API_KEY", "given")], "given", "DD_API_KEY"),
        ] {
            let found = secret(pairs);
            assert_eq!((found.current().expose_secret(), found.variable().as_str()), (value, name));
        }
    }

    #[test]
    fn a_secret_for_one_source_alone_goes_before_a_general_one_wherever_each_comes_from() {
        let folder = tempfile::tempdir().unwrap();
        for (file, content) in [("general", "general"), ("sectigo-audit-dd-api-key", "own"), ("own", "own")] {
            std::fs::write(folder.path().join(file), content).unwrap();
        }
        let path = |file: &str| folder.path().join(file).into_os_string().into_string().unwrap();
        let (general, own, credentials) = (path("general"), path("own"), path(""));
        let generals = [("DD_API_KEY", "general"), ("DD_API_KEY_FILE", general.as_str())];
        let credential = ("CREDENTIALS_DIRECTORY", credentials.as_str());
        let owns = [credential, ("SECTIGO_AUDIT_DD_API_KEY", "own"), ("SECTIGO_AUDIT_DD_API_KEY_FILE", own.as_str())];
        for (general, own) in generals.into_iter().flat_map(|general| owns.map(|own| (general, own))) {
            let secret = read(&[general, own], None, |reader| reader.get_secret(&KEY)).unwrap();
            assert_eq!(secret.current().expose_secret(), "own", "{general:?} {own:?}");
        }
        let both = [generals[0], generals[1], owns[1]];
        let secret = read(&both, None, |reader| reader.get_secret(&KEY)).unwrap();
        assert_eq!(secret.variable().as_str(), "SECTIGO_AUDIT_DD_API_KEY", "the general ones count for others only");
    }

    #[test]
    fn a_file_that_gives_no_secret_is_named() {
        let message =
            |path: &str| read(&[("DD_API_KEY_FILE", path)], None, |reader| reader.get_secret(&KEY)).unwrap_err();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep").join("key");
        let text = message(path.to_str().unwrap());
        assert!(text.contains(&format!("{path:?}: the file cannot be read")), "{text}");
        let empty = tempfile::NamedTempFile::new().unwrap();
        assert!(message(empty.path().to_str().unwrap()).contains("the file is empty"));
    }

    #[test]
    fn a_secret_put_into_the_file_variable_is_not_shown() {
        for value in ["hunter2", "hunter2/x", "/hunter2/x", "=m0sfj!RQZNp]d2C8DIf1qM8V6jjnAEy"] {
            let message = read(&[("DD_API_KEY_FILE", value)], None, |reader| reader.get_secret(&KEY)).unwrap_err();
            assert!(message.contains("DD_API_KEY_FILE=[hidden]") && !message.contains(value), "{message}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_not_text_are_a_mistake_in_the_variable_that_is_read() {
        use std::os::unix::ffi::OsStringExt as _;
        let broken = std::ffi::OsString::from_vec(vec![b'a', 0xff]);
        let environment = Environment::from_pairs([("DD_TAGS".into(), broken.clone()), ("LANG".into(), broken)]);
        let (owner, mut mistakes) = (owner(None), Mistakes::default());
        let built = Reader::new(&environment, &owner, &mut mistakes).find(&TAGS);
        let message = mistakes.conclude(built, &[]).unwrap_err().to_string();
        assert_eq!(message, "the configuration has a mistake:\n  DD_TAGS: its value is not text in UTF-8");
    }
}
