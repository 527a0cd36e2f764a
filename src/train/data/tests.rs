//! Batches: what is in them, and what is refused.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use mqc_ir::{DType, Tensor};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn error<T>(result: Result<T>) -> String {
    format!("{:#}", result.err().expect("an error"))
}

fn input(name: &str, dtype: DType, shape: &[usize], classes: Option<u64>) -> Input {
    let classes = classes.map(|count| Classes { count, ignore: Some(-100) });
    Input { name: name.to_owned(), dtype, shape: shape.to_vec(), classes }
}

fn arrays<const N: usize>(arrays: [(&str, Tensor); N]) -> Tensors {
    arrays.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect()
}

fn f32s(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_f32(shape.to_vec(), values).unwrap()
}

/// Sample i holds i.
fn numbered(rows: usize) -> Source {
    let values: Vec<f32> = (0..rows).map(|i| i as f32).collect();
    let x = arrays([("x", f32s(&[rows, 1], &values))]);
    Source::Samples(Samples::new(&x, &[input("x", DType::F32, &[1], None)]).unwrap())
}

fn rows(batch: &Tensors) -> Vec<usize> {
    batch["x"].to_f32_vec().unwrap().into_iter().map(|v| v as usize).collect()
}

/// A token file in which token i is i.
fn tokens(count: u32) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.u32");
    fs::write(&path, (0..count).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    (folder, path)
}

fn window_inputs() -> Vec<WindowInput> {
    let all = [("ids", Content::Ids), ("next", Content::NextIds), ("mask", Content::Ones)];
    let all = all.into_iter().chain([("types", Content::Zeros), ("places", Content::Positions)]);
    let dtype = |name| if name == "types" { DType::I32 } else { DType::I64 };
    all.map(|(name, content)| WindowInput { name: name.to_owned(), dtype: dtype(name), content }).collect()
}

fn windows(count: u32, sequence: usize) -> (TempDir, Source) {
    let (folder, path) = tokens(count);
    let stream = Stream::open(&path, None, count as usize).unwrap();
    (folder, Source::Windows(Windows::new(stream, sequence, window_inputs()).unwrap()))
}

proptest! {
    #[test]
    fn an_epoch_has_every_sample_once(rows in 1usize..200, batch in 1usize..50, seed: u64, epoch in 0u64..4) {
        prop_assume!(batch <= rows);
        let mut sampler = Sampler::new(rows, batch, seed).unwrap();
        let steps = sampler.steps_per_epoch();
        let mut seen = BTreeSet::new();
        for step in epoch * steps + 1..=(epoch + 1) * steps {
            let (of, chosen) = sampler.batch(step);
            prop_assert_eq!(of, epoch);
            prop_assert_eq!(chosen.len(), batch);
            // The same for one that was never asked for other steps.
            prop_assert_eq!(&Sampler::new(rows, batch, seed).unwrap().batch(step).1, &chosen);
            seen.extend(chosen);
        }
        prop_assert_eq!(seen.len(), rows / batch * batch);
        prop_assert!(seen.iter().all(|row| *row < rows));
    }

    #[test]
    fn training_and_validation_samples_are_disjoint(rows in 2usize..300, share in 0.01f64..0.99, seed: u64) {
        let (train, validation) = numbered(rows).split(share, seed).unwrap();
        let all = |source: &Source| -> BTreeSet<usize> {
            let every: Vec<usize> = (0..source.validation_rows()).collect();
            self::rows(&source.validation_batch(&every).unwrap()).into_iter().collect()
        };
        let (train, validation) = (all(&train), all(&validation));
        prop_assert_eq!(validation.len(), (rows as f64 * share).round() as usize);
        prop_assert!(train.is_disjoint(&validation));
        prop_assert_eq!(train.len() + validation.len(), rows);
    }

    #[test]
    fn an_epoch_predicts_tokens_once_and_never_those_of_the_validation(
        count in 60u32..400, sequence in 1usize..12, batch in 1usize..4, seed: u64, epoch in 0u64..3,
    ) {
        let (_folder, source) = windows(count, sequence);
        let mut data = Data::new(source, Validation::Share { share: 0.25, seed }, batch, 2, seed).unwrap();
        let held = (f64::from(count) * 0.25).round() as i64;
        let steps = data.steps_per_epoch();
        let mut seen = BTreeSet::new();
        for step in epoch * steps + 1..=(epoch + 1) * steps {
            let tensors = data.batch(step).unwrap();
            let of = |name: &str| tensors[name].to_i64_vec().unwrap();
            prop_assert_eq!(tensors["ids"].shape(), &[batch, sequence]);
            prop_assert_eq!(of("ids").iter().map(|id| id + 1).collect::<Vec<_>>(), of("next"));
            for label in of("next") {
                prop_assert!(label < i64::from(count) - held);
                prop_assert!(seen.insert(label));
            }
        }
        // All but what an offset and an incomplete batch leave out.
        let most = (i64::from(count) - held) as usize - 1;
        prop_assert!(seen.len() + sequence * (batch + 1) > most, "{} of {most}", seen.len());
        for index in 0..data.validation_batches() {
            let (tensors, _) = data.validation_batch(index).unwrap();
            prop_assert!(tensors["ids"].to_i64_vec().unwrap().iter().all(|id| *id >= i64::from(count) - held));
        }
    }
}

#[test]
fn other_epochs_and_seeds_have_other_orders() {
    let order = |seed, epoch: u64| Sampler::new(40, 20, seed).unwrap().batch(2 * epoch + 1).1;
    assert_ne!(order(1, 0), order(1, 1));
    assert_ne!(order(1, 0), order(2, 0));
    // What does not fill a batch is not always the same.
    let left_out: BTreeSet<usize> = (0..60)
        .flat_map(|epoch| {
            let seen: BTreeSet<usize> =
                Sampler::new(11, 10, 3).unwrap().batch(epoch + 1).1.into_iter().collect();
            (0..11).filter(move |row| !seen.contains(row))
        })
        .collect();
    assert_eq!(left_out.len(), 11);
    let sampler = Sampler::new(11, 10, 3).unwrap();
    let offsets: BTreeSet<usize> = (0..100).map(|epoch| sampler.offset(epoch, 5)).collect();
    assert_eq!(offsets, (0..5).collect());
}

#[test]
fn the_last_validation_batch_is_filled_up() {
    let data = Data::new(numbered(8), Validation::Own(numbered(5)), 4, 2, 0).unwrap();
    assert_eq!(data.validation_batches(), 3);
    let batch = |index| data.validation_batch(index).map(|(batch, valid)| (rows(&batch), valid)).unwrap();
    assert_eq!([batch(0), batch(1), batch(2)], [(vec![0, 1], 2), (vec![2, 3], 2), (vec![4, 4], 1)]);
    assert!(data.validation_batch(3).is_err());
}

#[test]
fn other_inputs_of_a_decoder_are_filled() {
    let (_folder, source) = windows(20, 3);
    let batch = source.train_batch(&[0, 2], 4).unwrap();
    let of = |name: &str| batch[name].to_i64_vec().unwrap();
    assert_eq!(of("ids"), [4, 5, 6, 10, 11, 12]);
    assert_eq!(of("next"), [5, 6, 7, 11, 12, 13]);
    assert_eq!(of("mask"), [1; 6]);
    assert_eq!((of("types"), batch["types"].dtype()), (vec![0; 6], DType::I32));
    assert_eq!(of("places"), [0, 1, 2, 0, 1, 2]);
    let input = WindowInput { name: "ids".to_owned(), dtype: DType::F32, content: Content::Ids };
    let Source::Windows(windows) = source else { unreachable!() };
    assert!(error(Windows::new(windows.stream().clone(), 3, vec![input])).contains("tokens are i64 or i32"));
}

#[test]
fn too_little_data_is_refused() {
    let refused = |source, validation| error(Data::new(source, validation, 4, 2, 0));
    let message = refused(numbered(3), Validation::None);
    assert!(message.contains("3 rows to train on are less than a batch of 4"), "{message}");
    let message = refused(windows(20, 5).1, Validation::None);
    assert!(message.contains("20 tokens in windows of 6") && message.contains("3 rows"), "{message}");
    assert!(
        refused(numbered(50), Validation::Share { share: 0.001, seed: 1 })
            .contains("the validation data has no samples")
    );
    assert!(
        refused(numbered(5), Validation::Share { share: 0.5, seed: 1 }).contains("rows to train on are less")
    );
    assert!(
        refused(numbered(9), Validation::Share { share: 1.5, seed: 1 })
            .contains("the share of validation data is 1.5")
    );
    assert!(refused(numbered(9), Validation::Own(windows(4, 5).1)).contains("the validation data has no"));
}

#[test]
fn bad_samples_are_named() {
    let x = input("x", DType::F32, &[2], None);
    let label = input("label", DType::I64, &[], Some(3));
    let values = |x: Tensor, labels: &[i64]| arrays([("x", x), ("label", Tensor::i64_vector(labels))]);
    let new = |arrays: &Tensors| Samples::new(arrays, &[x.clone(), label.clone()]);
    let good = f32s(&[3, 2], &[0.0; 6]);
    assert_eq!(new(&values(good.clone(), &[0, 2, -100])).unwrap().len(), 3);
    let cases = [
        (
            values(f32s(&[3, 2], &[0., 0., 0., f32::NAN, 0., 0.]), &[0; 3]),
            "x holds NaN in sample 1 at element 1",
        ),
        (values(f32s(&[3, 2], &[0., 0., 0., 0., f32::INFINITY, 0.]), &[0; 3]), "x holds inf in sample 2"),
        (values(good.clone(), &[0, 3, 0]), "label 3 of sample 1 in label is out of range; expected 0 to 2"),
        (values(good.clone(), &[0, 0, -1]), "label -1 of sample 2"),
        (values(good.clone(), &[0; 4]), "3 samples of x but 4 of label"),
        (
            values(f32s(&[3, 3], &[0.0; 9]), &[0; 3]),
            "x has shape [3, 3]; expected samples on the first axis and then [2]",
        ),
        (values(f32s(&[], &[0.0]), &[0; 3]), "x has shape []"),
        (values(f32s(&[0, 2], &[]), &[]), "the data has no samples"),
        (arrays([("x", good.clone())]), "the data has no array label; it has x"),
        (
            arrays([("x", good.clone()), ("label", f32s(&[3], &[0.0; 3]))]),
            "elements of type f32, the model expects i64",
        ),
    ];
    for (arrays, expected) in cases {
        let message = error(new(&arrays));
        assert!(message.contains(expected), "{message}\nexpected: {expected}");
    }
}

#[test]
fn elements_become_those_of_the_model() {
    let tensor = |dtype, bytes: &[u8]| Tensor::new(dtype, vec![2], bytes.to_vec().into()).unwrap();
    let gather = |tensor: Tensor, dtype| {
        let samples = Samples::new(&arrays([("x", tensor)]), &[input("x", dtype, &[], None)])?;
        Ok::<Tensor, anyhow::Error>(samples.gather(&[1, 0])?["x"].clone())
    };
    let doubles: Vec<u8> = [0.1f64, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let halves: Vec<u8> = [1.5, -2.0].iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    assert_eq!(gather(tensor(DType::F64, &doubles), DType::F32).unwrap(), f32s(&[2], &[-2.0, 0.1]));
    assert_eq!(gather(tensor(DType::F16, &halves), DType::F32).unwrap(), f32s(&[2], &[-2.0, 1.5]));
    let expected = Tensor::i64_vector(&[-2, 7]);
    assert_eq!(gather(tensor(DType::I8, &[7, 0xfe]), DType::I64).unwrap(), expected);
    let fits = gather(Tensor::i64_vector(&[7, -2]), DType::I32).unwrap();
    assert_eq!((fits.dtype(), fits.to_i64_vec().unwrap()), (DType::I32, vec![-2, 7]));
    let large = error(gather(Tensor::i64_vector(&[0, 1 << 31]), DType::I32));
    assert!(large.contains("value 2147483648 of sample 1 of input x does not fit into i32"), "{large}");
    assert!(gather(tensor(DType::U8, &[1, 2]), DType::F32).is_err());
    // f64 that f32 cannot hold is found when the data is opened.
    let huge: Vec<u8> = [0.0, 1e300f64].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert!(error(gather(tensor(DType::F64, &huge), DType::F32)).contains("x holds inf in sample 1"));
}

#[test]
fn bad_tokens_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str, bytes: &[u8], text: Option<&TextTokens>| {
        fs::write(folder.path().join(name), bytes).unwrap();
        Stream::open(&folder.path().join(name), text, 100)
    };
    let read = |stream: Stream| stream.tokens(0, 9).collect::<Vec<u32>>();
    assert_eq!(read(open("a.u16", &[1, 0, 99, 0], None).unwrap()), [1, 99]);
    assert_eq!(read(open("a.txt", b"ab\n", Some(&TextTokens::Bytes)).unwrap()), [97, 98, 10]);
    assert!(error(open("a.u16", &[1, 0, 100, 0], None)).contains("token 100 at place 1 is not below"));
    assert!(
        error(open("a.u32", &[1, 0, 0, 0, 1, 0], None))
            .contains("6 bytes are no whole number of tokens of 4")
    );
    assert!(error(open("a.u32", &[], None)).contains("it has no tokens"));
    assert!(error(open("a.txt", b"ab\n", None)).contains("say with which tokenizer"));
    assert!(error(open("a.txt", b"x\xc3", Some(&TextTokens::Bytes))).contains("token 120 at place 0"));
    assert!(error(Stream::open(&folder.path().join("none.u16"), None, 9)).contains("none.u16"));
}

#[test]
fn data_is_told_apart() {
    let identity = |source: Source| Data::new(source, Validation::None, 2, 2, 0).unwrap().identity();
    assert_eq!(identity(numbered(8)), identity(numbered(8)));
    assert_ne!(identity(numbered(8)), identity(numbered(9)));
    assert_eq!(identity(windows(50, 4).1), identity(windows(50, 4).1));
    assert_ne!(identity(windows(50, 4).1), identity(windows(50, 5).1));
    let digest = |value: u8, place: usize| {
        let mut bytes = vec![0; 10 << 20];
        bytes[place] = value;
        source::digest(&bytes)
    };
    assert_ne!(digest(0, 0), digest(1, (10 << 20) - 1));
    assert_ne!(digest(0, 0), digest(1, 0));
}

#[test]
fn later_stages_hold_out_the_same_samples() {
    let held = |seed: u64| {
        let validation = Validation::Share { share: 0.25, seed: 7 };
        let data = Data::new(numbered(40), validation, 4, 10, seed).unwrap();
        let (batch, valid) = data.validation_batch(0).unwrap();
        assert_eq!((valid, data.validation_batches()), (10, 1));
        rows(&batch)
    };
    assert_eq!(held(1), held(2));
}
