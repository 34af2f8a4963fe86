use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> OverlayOptions {
    parse_overlay_options(text.as_bytes()).unwrap()
}

fn paths(list: &[&str]) -> Vec<Vec<u8>> {
    list.iter().map(|path| path.as_bytes().to_vec()).collect()
}

#[test]
fn keys_are_found_wherever_they_stand() {
    let first = parse("rw,lowerdir=/b:/a,upperdir=/u,workdir=/w,index=off,userxattr");
    let second = parse("userxattr,index=off,workdir=/w,upperdir=/u,rw,lowerdir=/b:/a");
    assert_eq!(first, second);
    assert_eq!(first.lowers, paths(&["/b", "/a"]));
    assert_eq!(first.upper.as_deref(), Some(&b"/u"[..]));
    assert!(first.userxattr);
    assert_eq!(first.index, Some(false));
}

#[test]
fn lines_that_linux_6_18_wrote() {
    // mount -o 'lowerdir=l\,1:l 2:l\:3:l\\4,upperdir=u\,p\:p\\er,workdir=w'
    let options = parse(
        r"rw,lowerdir=l\134\0541:l\0402:l\134:3:l\134\1344,upperdir=u\134\054p\134:p\134\134er,workdir=w,uuid=on",
    );
    assert_eq!(options.lowers, paths(&["l,1", "l 2", "l:3", r"l\4"]));
    assert_eq!(unescape_path(&options.upper.unwrap()), br"u,p:p\er");
    // fsconfig: lowerdir+ by path, upperdir by descriptor.
    let options = parse(
        r"rw,lowerdir+=/s/l\0541,lowerdir+=/s/l\0402,lowerdir+=/s/l:3,lowerdir+=/s/l\1344,upperdir=/s/u\054p:p\134er",
    );
    assert_eq!(options.lowers, paths(&["/s/l,1", "/s/l 2", "/s/l:3", r"/s/l\4"]));
    assert_eq!(options.upper.unwrap(), br"/s/u,p:p\er");
}

#[test]
fn octal_colons_of_linux_6_5_do_not_separate() {
    assert_eq!(parse(r"lowerdir=/a\072b:/c").lowers, paths(&["/a:b", "/c"]));
}

#[test]
fn data_only_lowers() {
    let options = parse("lowerdir=/b:/a::/d1::/d2");
    assert_eq!(options.lowers, paths(&["/b", "/a"]));
    assert_eq!(options.data_lowers, paths(&["/d1", "/d2"]));
    let options = parse("lowerdir+=/b,datadir+=/d1,datadir+=/d2");
    assert_eq!(options.lowers, paths(&["/b"]));
    assert_eq!(options.data_lowers, paths(&["/d1", "/d2"]));
    for bad in [
        "lowerdir=",
        "lowerdir=:/a",
        "lowerdir=/a:",
        "lowerdir=/a::",
        "lowerdir=/a:::/b",
        "lowerdir=/a::/d:/b",
    ] {
        assert!(
            matches!(
                parse_overlay_options(bad.as_bytes()),
                Err(SourceError::OptionValue { name: "lowerdir", .. })
            ),
            "{bad}"
        );
    }
}

#[test]
fn contexts_keep_their_commas() {
    let options = parse(r#"rw,context="system_u:object_r:container_file_t:s0:c1,c2",lowerdir=/a"#);
    assert_eq!(options.lowers, paths(&["/a"]));
    // A quote elsewhere is a byte of a name.
    assert_eq!(parse(r#"lowerdir=/a"b,upperdir=/c"d"#).upper.unwrap(), br#"/c"d"#);
}

#[test]
fn the_list_is_closed() {
    for (text, name) in
        [("rw,lowerdir=/a,frobnicate=on", "frobnicate"), ("volatile=on", "volatile"), ("index", "index")]
    {
        match parse_overlay_options(text.as_bytes()) {
            Err(SourceError::UnknownOption { name: found }) => assert_eq!(found, name),
            other => panic!("{text}: {other:?}"),
        }
    }
    assert!(matches!(
        parse_overlay_options(b"metacopy=maybe"),
        Err(SourceError::OptionValue { name: "metacopy", .. })
    ));
    for twice in ["upperdir=/a,upperdir=/b", "lowerdir=/a,lowerdir=/b", "lowerdir=/a,lowerdir+=/b"] {
        assert!(
            matches!(parse_overlay_options(twice.as_bytes()), Err(SourceError::RepeatedOption { .. })),
            "{twice}"
        );
    }
}

#[test]
fn silence_means_the_module() {
    let quiet = ModuleDefaults {
        index: false,
        nfs_export: false,
        metacopy: false,
        redirect_dir: false,
        redirect_always_follow: true,
        xino_auto: false,
    };
    let silent = parse("lowerdir=/a");
    assert_eq!(silent.effective(quiet).redirect, Redirect::Follow);
    assert!(!silent.effective(quiet).index);
    let loud = ModuleDefaults { index: true, metacopy: true, redirect_dir: true, ..quiet };
    assert!(silent.effective(loud).index);
    assert!(silent.effective(loud).metacopy);
    assert_eq!(silent.effective(loud).redirect, Redirect::On);
    let off = parse("lowerdir=/a,index=off,metacopy=off,redirect_dir=off");
    assert!(!off.effective(loud).index);
    assert!(!off.effective(loud).metacopy);
    assert_eq!(off.effective(loud).redirect, Redirect::Follow);
    assert_eq!(
        off.effective(ModuleDefaults { redirect_always_follow: false, ..loud }).redirect,
        Redirect::NoFollow
    );
}

proptest! {
    #[test]
    fn any_bytes_are_survived(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_overlay_options(&raw);
        let _ = unescape_path(&raw);
    }

    #[test]
    fn near_options_are_survived(
        raw in r#"(lowerdir\+?=|datadir\+=|upperdir=|,|:|\\|\\134|\\072|"|context=|/a){0,60}"#
    ) {
        if let Ok(options) = parse_overlay_options(raw.as_bytes()) {
            prop_assert!(options.lowers.len() + options.data_lowers.len() <= raw.len());
        }
    }

    /// What the kernel does to a list of names is undone, byte for byte.
    #[test]
    fn lowers_come_back(names in proptest::collection::vec("[a,: \\\\=\"\n]{1,8}", 1..6)) {
        let given = names
            .iter()
            .map(|name| name.chars().flat_map(|c| if matches!(c, ':' | '\\' | ',') { vec!['\\', c] } else { vec![c] }).collect::<String>())
            .collect::<Vec<_>>()
            .join(":");
        let shown: String = given
            .bytes()
            .map(|b| if b",= \t\n\\".contains(&b) { format!("\\{b:03o}") } else { char::from(b).to_string() })
            .collect();
        let options = parse_overlay_options(format!("rw,lowerdir={shown},upperdir=/u").as_bytes()).unwrap();
        let expected: Vec<Vec<u8>> = names.into_iter().map(String::into_bytes).collect();
        prop_assert_eq!(options.lowers, expected);
    }
}
