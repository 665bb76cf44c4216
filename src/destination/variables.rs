//! The variables that every destination reads.

use std::path::{Path, PathBuf};

use crate::config::{Preset, Scope, Spec, Variable, parse};

/// The file for dead letters.
pub(crate) const DEAD_LETTER_PATH: Variable<PathBuf> = Variable::new(
    Scope::Shared,
    "AUDITSYNC_DEAD_LETTER_PATH",
    Preset::Derived("in the state's folder"),
    |text, _| dead_letter_path(text),
    "File for dead letters: records that the destination refuses. Without a file and a folder they are logged whole.",
);

/// All of them, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[&DEAD_LETTER_PATH.spec];

fn dead_letter_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_dir() || text.ends_with('/') {
        return Err("must be a file, not a folder".to_owned());
    }
    match path.parent() {
        Some(folder) if folder != Path::new("") => parse::existing_folder("its folder", folder)?,
        _ => {}
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_pairs;

    const NAME: &str = DEAD_LETTER_PATH.spec.name;

    #[test]
    fn the_file_for_dead_letters_is_a_file_in_a_folder_that_exists() {
        let folder = tempfile::tempdir().unwrap();
        let find = |path: &Path| read_pairs(&[(NAME, path.to_str().unwrap())], |reader| reader.find(&DEAD_LETTER_PATH));
        let elsewhere = folder.path().join("refused");
        assert_eq!(find(&elsewhere), Ok(Some(elsewhere)));
        assert_eq!(find(Path::new("refused")), Ok(Some(PathBuf::from("refused"))));
        let message = find(&folder.path().join("absent").join("file")).unwrap_err();
        assert!(message.contains(&format!("{NAME}=")) && message.contains("its folder does not exist"), "{message}");
        assert!(find(folder.path()).unwrap_err().contains("must be a file, not a folder"));
    }
}
