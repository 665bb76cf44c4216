//! The severity of an event of `CloudTrail`.
//!
//! The first row of the table that fits counts; rows of names come last. Denied actions come before all others. Among
//! failed actions, failed reads come last, because many only look for something that does not exist.

use std::collections::HashMap;

use crate::event::Severity;

/// The parts of a record that decide its severity.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Said<'a> {
    /// `eventName`.
    pub(super) name: &'a [u8],
    /// `errorCode`; empty if there is none.
    pub(super) error_code: &'a [u8],
    pub(super) has_failed: bool,
    /// Whether the account's root user did it.
    pub(super) is_root: bool,
    pub(super) is_read_only: bool,
}

/// The condition of a row.
#[derive(Debug, Clone, Copy)]
enum Fits {
    /// An error code that contains one of these.
    ErrorCode(&'static [&'static str]),
    /// A failed call that changes something, or a failed login.
    FailedWrite,
    /// Any other failed call.
    FailedRead,
    /// Any action of the root user except reads.
    Root,
    /// One of these names. A `*` stands for any text.
    Name(&'static [&'static str]),
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
struct Row {
    severity: Severity,
    fits: Fits,
    /// The row in words.
    #[allow(dead_code, reason = "the document shows it, and a test compares")]
    meaning: &'static str,
}

/// The table, in order.
const ROWS: &[Row] = &[
    Row {
        severity: Severity::Error,
        fits: Fits::ErrorCode(&[
            "AccessDenied",
            "Unauthorized",
            "Forbidden",
            "NotAuthorized",
            "AuthFailure",
            "InvalidClientTokenId",
            "SignatureDoesNotMatch",
            "ExpiredToken",
            "UnrecognizedClient",
        ]),
        meaning: "denied: `errorCode` has `AccessDenied`, `Unauthorized`, `Forbidden`, `AuthFailure` or the like",
    },
    Row {
        severity: Severity::Error,
        fits: Fits::FailedWrite,
        meaning: "a login or a change that failed (`errorCode`, and `readOnly` is not true)",
    },
    Row { severity: Severity::Notice, fits: Fits::FailedRead, meaning: "a read that failed" },
    Row {
        severity: Severity::Warn,
        fits: Fits::Root,
        meaning: "the root user did anything but read (`userIdentity.type` is `Root`)",
    },
    Row {
        severity: Severity::Warn,
        fits: Fits::Name(&[
            "StopLogging",
            "DeleteTrail",
            "UpdateTrail",
            "PutEventSelectors",
            "PutInsightSelectors",
            "DeleteEventDataStore",
            "StopEventDataStoreIngestion",
            "DeleteFlowLogs",
            "DeleteLogGroup",
            "DeleteLogStream",
            "StopConfigurationRecorder",
            "DeleteConfigurationRecorder",
            "DeleteDeliveryChannel",
            "DeleteDetector",
            "UpdateDetector",
            "DisassociateFromMasterAccount",
            "DisassociateFromAdministratorAccount",
            "DisableSecurityHub",
            "DisableMacie",
            "DeleteWebACL",
            "DeletePublicAccessBlock",
            "PutBucketLogging",
            "DeleteBucketEncryption",
        ]),
        meaning: "a trail or another guard is stopped, deleted or changed (`StopLogging`, `DeleteTrail`, `DeleteDetector`, …)",
    },
    Row {
        severity: Severity::Warn,
        fits: Fits::Name(&[
            "Put*Policy",
            "Attach*Policy",
            "Detach*Policy",
            "Delete*Policy",
            "Create*Policy",
            "CreatePolicyVersion",
            "SetDefaultPolicyVersion",
            "UpdateAssumeRolePolicy",
            "*PermissionsBoundary",
            "AddUserToGroup",
            "RemoveUserFromGroup",
            "AddRoleToInstanceProfile",
            "*Grant",
            "*Acl",
            "AddPermission*",
            "RemovePermission*",
            "ModifySnapshotAttribute",
            "ModifyImageAttribute",
            "CreateAccountAssignment",
            "DeleteAccountAssignment",
            "CreateSAMLProvider",
            "UpdateSAMLProvider",
            "CreateOpenIDConnectProvider",
        ]),
        meaning: "rights change (`Put*Policy`, `Attach*Policy`, `Detach*Policy`, `UpdateAssumeRolePolicy`, `AddUserToGroup`, …)",
    },
    Row {
        severity: Severity::Warn,
        fits: Fits::Name(&[
            "CreateAccessKey",
            "UpdateAccessKey",
            "DeleteAccessKey",
            "CreateLoginProfile",
            "UpdateLoginProfile",
            "DeleteLoginProfile",
            "CreateUser",
            "DeleteUser",
            "CreateRole",
            "DeleteRole",
            "DeactivateMFADevice",
            "DeleteVirtualMFADevice",
            "ScheduleKeyDeletion",
            "DisableKey",
            "DeleteSecret",
            "LeaveOrganization",
            "RemoveAccountFromOrganization",
            "DeleteOrganization",
        ]),
        meaning: "users, roles, credentials, keys and accounts come and go (`CreateUser`, `CreateAccessKey`, `DeactivateMFADevice`, `ScheduleKeyDeletion`, …)",
    },
    Row {
        severity: Severity::Notice,
        fits: Fits::Name(&[
            "ConsoleLogin",
            "SwitchRole",
            "ChangePassword",
            "GetSecretValue",
            "*SecurityGroup*",
            "*NetworkAcl*",
            "*Route",
            "*RouteTable",
            "*InternetGateway",
            "*VpcPeeringConnection",
            "Delete*",
            "Terminate*",
            "Stop*",
            "Disable*",
            "Remove*",
            "Revoke*",
        ]),
        meaning: "logins, secrets read, changes of networks, and whatever is deleted, stopped or revoked",
    },
];

/// A cache of severities by name. A bucket repeats the same few names, and the table has many patterns.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(HashMap<Box<[u8]>, Severity>);

/// The most names in the cache. AWS has more, but no account uses all.
const MOST_NAMES: usize = 4096;

impl Names {
    fn severity(&mut self, name: &[u8]) -> Severity {
        if let Some(known) = self.0.get(name) {
            return *known;
        }
        let said = Said { name, ..Said::default() };
        let severity = ROWS.iter().find(|row| row.fits.holds(&said)).map_or(Severity::Info, |row| row.severity);
        if self.0.len() < MOST_NAMES {
            self.0.insert(name.into(), severity);
        }
        severity
    }
}

/// The severity of a record.
pub(super) fn of(said: &Said<'_>, names: &mut Names) -> Severity {
    let before_names = ROWS.iter().take_while(|row| !matches!(row.fits, Fits::Name(_)));
    let first = before_names.into_iter().find(|row| row.fits.holds(said));
    first.map_or_else(|| names.severity(said.name), |row| row.severity)
}

impl Fits {
    fn holds(self, said: &Said<'_>) -> bool {
        match self {
            Self::ErrorCode(parts) => {
                !said.error_code.is_empty() && parts.iter().any(|part| holds(said.error_code, part.as_bytes()))
            }
            Self::FailedWrite => said.has_failed && !said.is_read_only,
            Self::FailedRead => said.has_failed,
            Self::Root => said.is_root && !said.is_read_only,
            Self::Name(patterns) => patterns.iter().any(|pattern| matches(said.name, pattern.as_bytes())),
        }
    }
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

/// Whether `text` fits `pattern`, in which a `*` stands for any text.
fn matches(text: &[u8], pattern: &[u8]) -> bool {
    match pattern.iter().position(|byte| *byte == b'*') {
        None => text == pattern,
        Some(star) => {
            let (beginning, rest) = pattern.split_at(star);
            let Some(text) = text.strip_prefix(beginning) else { return false };
            let rest = rest.get(1..).unwrap_or_default();
            rest.is_empty() || (0..=text.len()).any(|at| text.get(at..).is_some_and(|text| matches(text, rest)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn severity(name: &str, error: &str, is_root: bool, is_read_only: bool) -> Severity {
        let has_failed = !error.is_empty();
        let (name, error_code) = (name.as_bytes(), error.as_bytes());
        of(&Said { name, error_code, has_failed, is_root, is_read_only }, &mut Names::default())
    }

    #[test]
    fn the_first_row_that_fits_counts() {
        for (name, error, is_root, is_read_only, expected) in [
            ("DescribeInstances", "", false, true, Severity::Info),
            ("DescribeInstances", "Client.UnauthorizedOperation", false, true, Severity::Error),
            ("GetObject", "AccessDenied", false, true, Severity::Error),
            ("GetObject", "NoSuchKey", false, true, Severity::Notice),
            ("RunInstances", "Client.InstanceLimitExceeded", false, false, Severity::Error),
            ("RunInstances", "", false, false, Severity::Info),
            ("RunInstances", "", true, false, Severity::Warn),
            ("DescribeInstances", "", true, true, Severity::Info),
            ("StopLogging", "", false, false, Severity::Warn),
            ("PutBucketPolicy", "", false, false, Severity::Warn),
            ("DeleteRolePolicy", "", false, false, Severity::Warn),
            ("PutRolePermissionsBoundary", "", false, false, Severity::Warn),
            ("ConsoleLogin", "", false, false, Severity::Notice),
            ("ConsoleLogin", "", true, false, Severity::Warn),
            ("AuthorizeSecurityGroupIngress", "", false, false, Severity::Notice),
            ("DeleteBucket", "", false, false, Severity::Notice),
            ("PutObject", "", false, false, Severity::Info),
            ("", "", false, false, Severity::Info),
        ] {
            assert_eq!(severity(name, error, is_root, is_read_only), expected, "{name} {error}");
        }
    }

    #[test]
    fn the_document_shows_the_table() {
        let row = |row: &Row| format!("| `{}` | {} |\n", row.severity.name(), row.meaning);
        let rows: Vec<_> = ROWS.iter().map(row).collect();
        let table =
            format!("| severity | first row that fits |\n|---|---|\n{}| `info` | all others |\n", rows.concat());
        let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CLOUDTRAIL.md")).unwrap();
        let shown =
            document.split("<!-- severities -->\n").nth(1).and_then(|rest| rest.split("<!-- /severities -->").next());
        assert_eq!(shown, Some(table.as_str()), "put this between the marks in docs/CLOUDTRAIL.md:\n{table}");
    }
}
