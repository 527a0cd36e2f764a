use mqc_ir::op::{Binary, Unary};
use mqc_ir::{DType, Dim, Graph, Op, Tensor, Type};
use mqc_step::{Array, Error, Program, Setup};

use super::Model;

fn counter() -> Graph {
    let mut model = Model::default();
    let (x, y) = (model.real(&[2], &[0.0, 0.0]), model.real(&[2], &[0.0, 0.0]));
    let sum = model.apply(Op::Binary(Binary::Add), &[x, y]);
    let next = model.apply(Op::Identity, &[sum]);
    model.outputs(&[next, x]);
    model.graph
}

#[test]
fn outputs_are_carried() {
    // Fibonacci: x, y = x + y, x.
    let setup = Setup { threads: 1, carried: vec![(0, 0), (1, 1)] };
    let mut program = Program::<f32>::compile(&counter(), &setup).unwrap();
    program.set(0, &Array::real(vec![2], vec![1.0, 2.0]).unwrap()).unwrap();
    program.set(1, &Array::real(vec![2], vec![0.0, 1.0]).unwrap()).unwrap();
    for expected in [[1.0, 3.0], [2.0, 5.0], [3.0, 8.0], [5.0, 13.0]] {
        program.run().unwrap();
        assert_eq!(program.output(0).as_real().unwrap(), expected);
        assert_eq!(program.input(0).as_real().unwrap(), expected);
    }
    assert_eq!(program.output(1).as_real().unwrap(), [3.0, 8.0]);
    assert_eq!(program.scalar(0), 5.0);
}

#[test]
fn inputs_are_checked() {
    let mut program = Program::<f32>::compile(&counter(), &Setup::default()).unwrap();
    let error = program.run().unwrap_err().to_string();
    assert!(error.contains("input 0 (x0)") && error.contains("no value"), "{error}");
    let error = program.set(1, &Array::real(vec![3], vec![0.0; 3]).unwrap()).unwrap_err().to_string();
    assert!(error.contains("[3]") && error.contains("[2]"), "{error}");
    assert!(program.set(1, &Array::int(vec![2], vec![0; 2]).unwrap()).is_err());
    assert!(program.set(7, &Array::int(vec![2], vec![0; 2]).unwrap()).is_err());
    assert_eq!((program.inputs().len(), program.outputs().len()), (2, 2));
}

#[test]
fn wrong_graphs_and_setups_are_errors() {
    for carried in [vec![(0, 9)], vec![(9, 0)], vec![(0, 0), (0, 1)]] {
        let error = Program::<f32>::compile(&counter(), &Setup { threads: 1, carried }).unwrap_err();
        assert!(matches!(error, Error::Setup(_)), "{error}");
    }
    let mut graph = Graph::new("symbolic");
    let x = graph.add_input("x", Type::tensor(DType::F32, vec![Dim::Symbol("batch".into())]));
    let y = graph.apply(Op::Unary(Unary::Exp), "y", &[x]).unwrap();
    graph.set_outputs(vec![mqc_ir::graph::Output { value: y, name: "y".into(), declared: Type::Unknown }]);
    let error = Program::<f32>::compile(&graph, &Setup::default()).unwrap_err().to_string();
    assert!(error.contains("batch"), "{error}");
}

#[test]
fn operations_that_the_engine_lacks_are_named() {
    let mut model = Model::default();
    let x = model.real(&[2], &[0.0, 0.0]);
    let op = mqc_ir::op::Opaque {
        domain: "com.example".into(),
        op_type: "Magic".into(),
        overload: String::new(),
        attributes: Default::default(),
    };
    let y = model.apply(Op::Opaque(op), &[x]);
    let error = model.run(&[y]).unwrap_err().to_string();
    assert!(error.contains("n1") && error.contains("com.example::Magic"), "{error}");
}

#[test]
fn only_what_outputs_need_is_computed() {
    let mut model = Model::default();
    let (x, y) = (model.int(&[1], &[1]), model.int(&[1], &[0]));
    model.apply(Op::Binary(Binary::Div), &[x, y]);
    assert_eq!(model.run(&[x]).unwrap()[0].as_int().unwrap(), [1]);
}

#[test]
fn arrays_and_tensors() {
    let tensor = Tensor::from_f32(vec![2, 2], &[1.0, 2.0, 3.0, 4.5]).unwrap();
    let array = Array::<f64>::from_tensor(&tensor).unwrap();
    assert_eq!(array.to_tensor(DType::F32).unwrap(), tensor);
    assert!(array.to_tensor(DType::I64).is_err());
    let bytes = Tensor::new(DType::U4, vec![3], vec![0x21, 0x0f].into()).unwrap();
    assert_eq!(Array::<f32>::from_tensor(&bytes).unwrap().as_int().unwrap(), [1, 2, 15]);
    let signed = Array::<f32>::int(vec![2], vec![-1, 127]).unwrap();
    assert_eq!(signed.to_tensor(DType::I8).unwrap().bytes().as_ref(), [255, 127]);
    assert!(signed.to_tensor(DType::U8).is_err());
    assert!(Array::<f32>::real(vec![3], vec![1.0]).is_err());
    assert!(Array::<f32>::real(vec![usize::MAX, 2], vec![]).is_err());
}
