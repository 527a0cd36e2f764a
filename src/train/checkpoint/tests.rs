//! A process that dies between any two writes of a replacement leaves the old checkpoint or the new one.

use std::fs;

use mqc_ir::Tensor;
use tempfile::TempDir;

use super::*;

fn progress(step: u64) -> Progress {
    Progress {
        step,
        epoch: 0,
        fingerprint: "f".to_owned(),
        options: Default::default(),
        best: Some(Best { step, loss: 0.1 + step as f32 / 3.0 }),
        evaluations_since_best: 2,
    }
}

fn state(step: u64) -> Vec<(String, Tensor)> {
    let values: Vec<f32> = (0..100).map(|i| (i + step) as f32).collect();
    let weight = Tensor::from_f32(vec![10, 10], &values).unwrap();
    vec![("weight".to_owned(), weight), ("count".to_owned(), Tensor::i64_scalar(step as i64))]
}

/// A folder with a checkpoint of step 1.
fn saved() -> (TempDir, Swap) {
    let folder = tempfile::tempdir().unwrap();
    Store::open(folder.path()).unwrap().save(Kind::Last, &progress(1), &state(1)).unwrap();
    let swap = Swap::new(folder.path(), Kind::Last.name());
    (folder, swap)
}

/// The step that a process that starts now finds; the checkpoint is whole, and nothing is left beside it.
fn found(folder: &TempDir) -> u64 {
    let loaded = Store::open(folder.path()).unwrap().load(Kind::Last).unwrap().unwrap();
    let step = loaded.progress.step;
    assert_eq!(loaded.progress, progress(step));
    assert_eq!(loaded.state, state(step).into_iter().collect());
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["last"]);
    step
}

fn write_second(new: &Path) -> Result<()> {
    write(new, &progress(2), &state(2))
}

#[test]
fn death_while_writing_keeps_the_old_one() {
    let (folder, swap) = saved();
    swap.stage(write_second).unwrap();
    let files = [STATE, PROGRESS, SUMS]
        .map(|name| (name, fs::read(folder.path().join("last.new").join(name)).unwrap()));
    for written in 0..files.len() {
        let (name, bytes) = &files[written];
        for length in [None, Some(0), Some(bytes.len() / 2), Some(bytes.len() - 1)] {
            swap.stage(|new| {
                for (name, bytes) in &files[..written] {
                    fs::write(new.join(name), bytes)?;
                }
                Ok(length.map_or(Ok(()), |length| fs::write(new.join(name), &bytes[..length]))?)
            })
            .unwrap();
            // The sums are whole without the last line end.
            let expected = if *name == SUMS && length == Some(bytes.len() - 1) { 2 } else { 1 };
            assert_eq!(found(&folder), expected, "{name} of {length:?} bytes");
        }
    }
}

#[test]
fn death_between_renames_takes_the_new_one() {
    for done in 0..=3 {
        let (folder, swap) = saved();
        swap.stage(write_second).unwrap();
        if done >= 1 {
            swap.retire().unwrap();
        }
        if done >= 2 {
            swap.promote().unwrap();
        }
        if done >= 3 {
            swap.discard();
        }
        assert_eq!(found(&folder), 2, "{done} steps after writing");
        // What was settled stays settled, and can be replaced.
        Store::open(folder.path()).unwrap().save(Kind::Last, &progress(3), &state(3)).unwrap();
        assert_eq!(found(&folder), 3);
    }
}

#[test]
fn death_while_settling_is_settled_too() {
    // The old one is aside and the new one is incomplete: it was altered meanwhile.
    let (folder, swap) = saved();
    swap.stage(write_second).unwrap();
    swap.retire().unwrap();
    fs::write(folder.path().join("last.new").join(STATE), "").unwrap();
    assert_eq!(found(&folder), 1);
    // The place is taken, and what had it before was not removed.
    let (folder, swap) = saved();
    swap.stage(write_second).unwrap();
    swap.retire().unwrap();
    swap.promote().unwrap();
    swap.stage(|new| write(new, &progress(3), &state(3))).unwrap();
    assert_eq!(found(&folder), 3);
}

#[test]
fn a_failed_write_changes_nothing() {
    let (folder, swap) = saved();
    let error = swap.replace(|new| {
        fs::write(new.join(STATE), "half")?;
        bail!("the disk is full")
    });
    assert_eq!(error.unwrap_err().to_string(), "the disk is full");
    assert_eq!(found(&folder), 1);
}

#[test]
fn every_altered_byte_of_a_checkpoint_is_found() {
    let (folder, _) = saved();
    let last = folder.path().join("last");
    for name in [STATE, PROGRESS, SUMS] {
        let bytes = fs::read(last.join(name)).unwrap();
        for place in (0..bytes.len()).step_by(7) {
            let mut altered = bytes.clone();
            altered[place] ^= 1;
            fs::write(last.join(name), altered).unwrap();
            assert!(load(&last).is_err(), "byte {place} of {name}");
        }
        fs::remove_file(last.join(name)).unwrap();
        assert!(format!("{:#}", load(&last).err().unwrap()).contains("last"), "no {name}");
        fs::write(last.join(name), bytes).unwrap();
    }
    assert_eq!(found(&folder), 1);
}

#[test]
fn other_versions_are_refused() {
    let json = progress(1).to_json().unwrap();
    assert_eq!(Progress::from_json(json.as_bytes()).unwrap(), progress(1));
    let refused = |from: &str, to: &str| {
        assert!(json.contains(from), "{json}");
        format!("{:#}", Progress::from_json(json.replace(from, to).as_bytes()).unwrap_err())
    };
    assert!(refused("\"version\": 1", "\"version\": 2").contains("version 2; this mqc reads version 1"));
    let mqc = format!("\"mqc\": \"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(refused(&mqc, "\"mqc\": \"0.0.9\"").contains("mqc 0.0.9 wrote it"));
    assert!(refused("mqc training checkpoint", "notes").contains("its format is \"notes\""));
    assert!(refused("\"epoch\"", "\"era\"").contains("epoch"));
}

#[test]
fn two_processes_do_not_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let first = Store::open(folder.path()).unwrap();
    assert!(Store::open(folder.path()).err().unwrap().to_string().contains("another process trains"));
    drop(first);
    Store::open(folder.path()).unwrap();
}
