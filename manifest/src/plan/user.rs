//! Who a container runs as: numbers of the manifest, or what the image says, looked up in its files.

use thiserror::Error;

/// Why there is no user.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UserError {
    /// Neither a number nor a name.
    #[error("{0:?} is no user: it must be USER[:GROUP], by number or name")]
    Malformed(String),
    /// A name that the image does not know.
    #[error("user {0} is not in the image's /etc/passwd: set securityContext.runAsUser")]
    UnknownUser(String),
    /// Likewise.
    #[error("group {0} is not in the image's /etc/group: set securityContext.runAsGroup")]
    UnknownGroup(String),
    /// It comes out as root.
    #[error("is root, which runAsNonRoot refuses: set securityContext.runAsUser")]
    Root,
}

/// A number or a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// Number.
    Id(u32),
    /// Name.
    Text(String),
}

impl Name {
    fn parse(text: &str) -> Option<Self> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let id = text.parse().ok().filter(|id| *id != u32::MAX);
            return id.map(Self::Id);
        }
        let fine = !text.contains(|c: char| c == ':' || c.is_whitespace() || c.is_control());
        fine.then(|| Self::Text(text.to_owned()))
    }
}

/// The user of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUser {
    /// User.
    pub user: Name,
    /// Group; the user's own if there is none.
    pub group: Option<Name>,
}

impl ImageUser {
    /// `USER[:GROUP]`; empty is root.
    ///
    /// # Errors
    /// [`UserError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, UserError> {
        let wrong = || UserError::Malformed(text.to_owned());
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (text, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        Ok(Self {
            user: Name::parse(user).ok_or_else(wrong)?,
            group: group
                .map(|group| Name::parse(group).ok_or_else(wrong))
                .transpose()?,
        })
    }
}

/// Who a container runs as, before names are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// What the image says.
    pub image: ImageUser,
    /// User of the manifest.
    pub uid: Option<u32>,
    /// Group of the manifest.
    pub gid: Option<u32>,
    /// Further groups of the manifest.
    pub groups: Vec<u32>,
    /// Whether the image's further groups of the user are added.
    pub image_groups: bool,
    /// Whether root is refused.
    pub non_root: bool,
}

/// Numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Home directory, if the image knows the user.
    pub home: Option<String>,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl User {
    /// Looks names up in the image's /etc/passwd and /etc/group; files that are missing are empty.
    ///
    /// # Errors
    /// [`UserError`].
    pub fn resolve(&self, passwd: &str, group: &str) -> Result<Ids, UserError> {
        let wanted = match self.uid {
            Some(uid) => Name::Id(uid),
            None => self.image.user.clone(),
        };
        let account = accounts(passwd).find(|account| match &wanted {
            Name::Id(uid) => account.uid == *uid,
            Name::Text(name) => account.name == name,
        });
        let uid = match (&wanted, &account) {
            (Name::Id(uid), _) => *uid,
            (Name::Text(_), Some(account)) => account.uid,
            (Name::Text(name), None) => return Err(UserError::UnknownUser(name.clone())),
        };
        if uid == 0 && self.non_root {
            return Err(UserError::Root);
        }
        // The image's group goes with the image's user.
        let of_image = self.image.group.as_ref().filter(|_| self.uid.is_none());
        let gid = match (self.gid, of_image) {
            (Some(gid), _) => gid,
            (None, Some(Name::Id(gid))) => *gid,
            (None, Some(Name::Text(name))) => groups(group)
                .find(|(known, ..)| known == name)
                .map(|(_, gid, _)| gid)
                .ok_or_else(|| UserError::UnknownGroup(name.clone()))?,
            (None, None) => account.as_ref().map_or(0, |account| account.gid),
        };
        let mut further = self.groups.clone();
        if let Some(account) = account.as_ref().filter(|_| self.image_groups) {
            let member = |members: &str| members.split(',').any(|name| name == account.name);
            further.extend(
                groups(group)
                    .filter(|(.., all)| member(all))
                    .map(|(_, gid, _)| gid),
            );
        }
        further.sort_unstable();
        further.dedup();
        Ok(Ids {
            uid,
            gid,
            groups: further,
            home: account.map(|account| account.home.to_owned()),
        })
    }
}

/// Lines of passwd(5); what is malformed is no account.
fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _) = (fields.next()?, fields.next()?);
        Some(Account {
            name,
            uid: fields.next()?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
            home: fields.nth(1).unwrap_or_default(),
        })
    })
}

/// Lines of group(5): name, number, members.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _) = (fields.next()?, fields.next()?);
        let gid = fields.next()?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlog:x:4:web,root\nssl:x:5:web\n";

    fn resolve(image: &str, change: impl Fn(&mut User)) -> Result<Ids, UserError> {
        let mut user = User {
            image: ImageUser::parse(image)?,
            uid: None,
            gid: None,
            groups: Vec::new(),
            image_groups: true,
            non_root: false,
        };
        change(&mut user);
        user.resolve(PASSWD, GROUP)
    }

    #[test]
    fn users_of_images_and_manifests() {
        type Case = (&'static str, fn(&mut User), u32, u32, &'static [u32]);
        let table: [Case; 10] = [
            ("", |_| {}, 0, 0, &[4]),
            ("web", |_| {}, 33, 34, &[4, 5]),
            ("33", |_| {}, 33, 34, &[4, 5]),
            ("web:ssl", |_| {}, 33, 5, &[4, 5]),
            ("77", |_| {}, 77, 0, &[]),
            ("77:88", |_| {}, 77, 88, &[]),
            ("web:", |_| {}, 33, 34, &[4, 5]),
            ("web:ssl", |user| user.uid = Some(1000), 1000, 0, &[]),
            (
                "",
                |user| (user.uid, user.gid) = (Some(33), Some(7)),
                33,
                7,
                &[4, 5],
            ),
            (
                "web",
                |user| (user.image_groups, user.groups) = (false, vec![9, 8, 9]),
                33,
                34,
                &[8, 9],
            ),
        ];
        for (image, change, uid, gid, groups) in table {
            let ids = resolve(image, change).unwrap();
            assert_eq!(
                (ids.uid, ids.gid, &*ids.groups),
                (uid, gid, groups),
                "{image}"
            );
        }
        assert_eq!(
            resolve("web", |_| {}).unwrap().home.as_deref(),
            Some("/srv")
        );
    }

    #[test]
    fn users_that_there_are_not() {
        for (image, non_root, error) in [
            ("nobody", false, UserError::UnknownUser("nobody".into())),
            (
                "web:nobody",
                false,
                UserError::UnknownGroup("nobody".into()),
            ),
            ("a:b:c", false, UserError::Malformed("a:b:c".into())),
            ("a b", false, UserError::Malformed("a b".into())),
            (
                "4294967295",
                false,
                UserError::Malformed("4294967295".into()),
            ),
            ("root", true, UserError::Root),
            ("", true, UserError::Root),
        ] {
            let result = resolve(image, |user| user.non_root = non_root);
            assert_eq!(result, Err(error), "{image}");
        }
        assert!(resolve("web", |user| user.non_root = true).is_ok());
    }
}
