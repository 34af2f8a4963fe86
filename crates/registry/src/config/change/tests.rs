use serde_json::json;

use super::*;

fn base() -> RunConfig {
    RunConfig {
        env: vec!["PATH=/bin".into(), "A=1".into()],
        cmd: Some(vec!["old".into()]),
        working_dir: Some("/srv".into()),
        ..RunConfig::default()
    }
}

fn changed(text: &str) -> RunConfig {
    let mut config = base();
    apply(&mut config, &Change::parse(text).unwrap()).unwrap();
    config
}

fn json(text: &str) -> Value {
    serde_json::to_value(changed(text)).unwrap()
}

fn cause(text: &str) -> ChangeCause {
    match Change::parse(text) {
        Err(error) => error.cause,
        Ok(changes) => apply(&mut base(), &changes).unwrap_err().cause,
    }
}

#[test]
fn commands_have_two_forms() {
    assert_eq!(json(r#"CMD ["a", "b c"]"#)["Cmd"], json!(["a", "b c"]));
    assert_eq!(json("cmd a  $X 'b c'")["Cmd"], json!(["/bin/sh", "-c", "a  $X 'b c'"]));
    assert_eq!(json("CMD [a, b]")["Cmd"], json!(["/bin/sh", "-c", "[a, b]"]));
    assert_eq!(json("CMD []")["Cmd"], Value::Null);
    assert_eq!(cause("CMD [1]"), ChangeCause::NotStrings);
    let shell = RunConfig { shell: Some(vec!["bash".into(), "-ec".into()]), ..base() };
    assert_eq!(command(&shell, "x").unwrap().unwrap(), ["bash", "-ec", "x"]);
}

#[test]
fn an_entry_point_drops_the_arguments_of_the_old_one() {
    assert_eq!(json(r#"ENTRYPOINT ["e"]"#)["Cmd"], Value::Null);
    assert_eq!(json("CMD [\"c\"]\nENTRYPOINT [\"e\"]")["Cmd"], json!(["c"]));
    assert_eq!(json("ENTRYPOINT [\"e\"]\nCMD [\"c\"]")["Cmd"], json!(["c"]));
}

#[test]
fn env_replaces_in_place_and_expands() {
    assert_eq!(
        json("ENV PATH=/x:$PATH B='b c' D=${NO:-d}")["Env"],
        json!(["PATH=/x:/bin", "A=1", "B=b c", "D=d"])
    );
    assert_eq!(json(r"ENV E \a b  c")["Env"][2], "E=a b  c");
    assert_eq!(json("ENV A=2 B=$A")["Env"], json!(["PATH=/bin", "A=2", "B=1"]));
    assert_eq!(json("ENV A=2\nENV B=$A")["Env"], json!(["PATH=/bin", "A=2", "B=2"]));
    assert_eq!(json("ENV B=")["Env"][2], "B=");
    assert_eq!(cause("ENV A"), ChangeCause::Missing);
    assert_eq!(cause("ENV A=1 b"), ChangeCause::NotPair("b".into()));
    assert_eq!(cause("ENV =1"), ChangeCause::EmptyName);
    assert_eq!(cause("ENV A='1"), ChangeCause::Expand(ExpandError::Quote));
}

#[test]
fn labels_are_sorted_and_expanded() {
    let labels = json(r#"LABEL z="1 2" "a b"=$A"#)["Labels"].clone();
    assert_eq!(serde_json::to_string(&labels).unwrap(), r#"{"a b":"1","z":"1 2"}"#);
    assert_eq!(json("LABEL k some text")["Labels"], json!({"k": "some text"}));
}

#[test]
fn ports_are_written_out() {
    let ports = json("EXPOSE 80 8000-8002/UDP ${NO:-9 10}")["ExposedPorts"].clone();
    let names: Vec<&String> = ports.as_object().unwrap().keys().collect();
    assert_eq!(names, ["10/tcp", "80/tcp", "8000/udp", "8001/udp", "8002/udp", "9/tcp"]);
    for bad in ["x", "65536", "5-4", "80/icmp", "+80", "-", "80/"] {
        assert_eq!(cause(&format!("EXPOSE {bad}")), ChangeCause::Port(bad.into()));
    }
}

#[test]
fn health_is_checked_or_not() {
    assert_eq!(
        json(r#"HEALTHCHECK --interval=1m30s --retries=3 CMD ["a", "b"]"#)["Healthcheck"],
        json!({"Test": ["CMD", "a", "b"], "Interval": 90_000_000_000_i64, "Retries": 3})
    );
    assert_eq!(
        json("healthcheck cmd curl $X || exit 1")["Healthcheck"],
        json!({"Test": ["CMD-SHELL", "curl $X || exit 1"]})
    );
    assert_eq!(json("HEALTHCHECK NONE")["Healthcheck"], json!({"Test": ["NONE"]}));
    for bad in ["--interval=5 CMD x", "--x=1s CMD x", "--retries=-1 CMD x", "--timeout=1us CMD x", "WHAT"] {
        assert!(matches!(cause(&format!("HEALTHCHECK {bad}")), ChangeCause::Option(_)), "{bad}");
    }
    assert_eq!(cause("HEALTHCHECK CMD"), ChangeCause::Missing);
}

#[test]
fn the_rest_of_the_eleven() {
    assert_eq!(json("ONBUILD RUN make $X")["OnBuild"], json!(["RUN make $X"]));
    assert_eq!(cause("ONBUILD FROM x"), ChangeCause::OnBuild("FROM".into()));
    assert_eq!(json("STOPSIGNAL SIGRTMIN+3")["StopSignal"], "SIGRTMIN+3");
    assert_eq!(cause("STOPSIGNAL SIGWHAT"), ChangeCause::Signal("SIGWHAT".into()));
    assert_eq!(json("USER $A:$A")["User"], "1:1");
    assert_eq!(cause("USER a b"), ChangeCause::TooMany);
    assert_eq!(json("VOLUME /a \"/b c\"")["Volumes"], json!({"/a": {}, "/b c": {}}));
    assert_eq!(json(r#"VOLUME ["/a b"]"#)["Volumes"], json!({"/a b": {}}));
    assert_eq!(json("WORKDIR sub/../x")["WorkingDir"], "/srv/x");
    assert_eq!(json("WORKDIR /a\nWORKDIR b\nWORKDIR ../../..")["WorkingDir"], "/");
}

#[test]
fn others_are_refused_by_name() {
    for verb in ["RUN", "copy", "FROM", "ARG", "SHELL"] {
        assert_eq!(cause(&format!("{verb} x")), ChangeCause::Build(verb.to_uppercase()));
    }
    assert_eq!(cause("FOO x"), ChangeCause::Unknown);
    assert_eq!(cause("ENV"), ChangeCause::Missing);
    let error = Change::parse("USER x\nRUN y").unwrap_err();
    assert_eq!(error.to_string(), r#"--change "RUN y""#);
}

#[test]
fn a_failed_change_changes_nothing() {
    let mut config = super::super::ImageConfig { config: base(), ..Default::default() };
    let changes = Change::parse("USER x\nEXPOSE y").unwrap();
    assert!(config.apply(&changes).is_err());
    assert_eq!(config.config, base());
}
