//! Every operation of the engine against small independent references.

mod elementwise;
mod layout;
mod products;
mod programs;
mod reduce;

use mqc_ir::graph::Output;
use mqc_ir::{DType, Dim, Graph, Node, Op, Tensor, Type, Value, ValueInfo};
use mqc_step::{Array, Data, Error, Program, Setup};

/// A graph under test and the values of its inputs.
#[derive(Default)]
pub struct Model {
    pub graph: Graph,
    values: Vec<Array<f64>>,
}

impl Model {
    pub fn real(&mut self, shape: &[usize], values: &[f64]) -> Value {
        self.input(DType::F32, Array::real(shape.to_vec(), values.to_vec()).unwrap())
    }

    pub fn int(&mut self, shape: &[usize], values: &[i64]) -> Value {
        self.input(DType::I64, Array::int(shape.to_vec(), values.to_vec()).unwrap())
    }

    pub fn bool(&mut self, shape: &[usize], values: &[bool]) -> Value {
        self.input(DType::Bool, Array::bool(shape.to_vec(), values.to_vec()).unwrap())
    }

    pub fn input(&mut self, dtype: DType, value: Array<f64>) -> Value {
        let dims = value.shape().iter().map(|d| Dim::Size(*d as u64)).collect();
        let name = format!("x{}", self.values.len());
        self.values.push(value);
        self.graph.add_input(name, Type::tensor(dtype, dims))
    }

    pub fn ints(&mut self, values: &[i64]) -> Value {
        self.constant(Tensor::i64_vector(values))
    }

    pub fn constant(&mut self, tensor: Tensor) -> Value {
        self.apply(Op::Constant(tensor), &[])
    }

    pub fn apply(&mut self, op: Op, operands: &[Value]) -> Value {
        let operands: Vec<_> = operands.iter().copied().map(Some).collect();
        self.node(op, &operands, 1)[0]
    }

    pub fn node(&mut self, op: Op, operands: &[Option<Value>], outputs: usize) -> Vec<Value> {
        let n = self.graph.len();
        let info = |i| ValueInfo { name: format!("v{n}_{i}"), ty: Type::Unknown };
        let node = Node::new(op, format!("n{n}"), (0..outputs).map(info).collect());
        let node = self.graph.insert(node, operands).unwrap();
        (0..outputs).map(|slot| Value { node, slot }).collect()
    }

    pub fn outputs(&mut self, values: &[Value]) {
        let output =
            |(i, v): (usize, &Value)| Output { value: *v, name: format!("y{i}"), declared: Type::Unknown };
        self.graph.set_outputs(values.iter().enumerate().map(output).collect());
    }

    /// The values of these results.
    pub fn run(&mut self, results: &[Value]) -> Result<Vec<Array<f64>>, Error> {
        self.outputs(results);
        let mut program = Program::<f64>::compile(&self.graph, &Setup { threads: 1, ..Setup::default() })?;
        for (i, value) in self.values.iter().enumerate() {
            program.set(i, value)?;
        }
        program.run()?;
        Ok((0..results.len()).map(|i| program.output(i)).collect())
    }

    pub fn value(&mut self, result: Value) -> Array<f64> {
        self.run(&[result]).unwrap().remove(0)
    }

    pub fn reals(&mut self, result: Value) -> Vec<f64> {
        self.value(result).as_real().expect("floats").to_vec()
    }
}

/// One operation of float operands.
pub fn reals(op: Op, operands: &[(&[usize], &[f64])]) -> Vec<f64> {
    let mut model = Model::default();
    let operands: Vec<_> = operands.iter().map(|(shape, values)| model.real(shape, values)).collect();
    let result = model.apply(op, &operands);
    model.reals(result)
}

/// Places of a tensor, row by row.
pub fn places(shape: &[usize]) -> Vec<Vec<usize>> {
    shape.iter().fold(vec![vec![]], |places, size| {
        places.iter().flat_map(|p| (0..*size).map(move |i| [p.as_slice(), &[i]].concat())).collect()
    })
}

/// The element at a place of a tensor that broadcasts to it.
pub fn at(values: &[f64], shape: &[usize], place: &[usize]) -> f64 {
    let skip = place.len() - shape.len();
    let index = shape.iter().zip(&place[skip..]).fold(0, |at, (d, i)| at * d + if *d == 1 { 0 } else { *i });
    values[index]
}

/// Values that differ from each other, of both signs.
pub fn numbers(len: usize) -> Vec<f64> {
    (0..len).map(|i| ((i * 37 + 11) % 101) as f64 / 16.0 - 3.0).collect()
}

#[track_caller]
pub fn close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (x, y)) in found.iter().zip(expected).enumerate() {
        let same = x == y || x.is_nan() && y.is_nan() || (x - y).abs() <= tolerance * (1.0 + y.abs());
        assert!(same, "element {i}: found {x}, expected {y}");
    }
}

pub fn data(array: &Array<f64>) -> &Data<f64> {
    array.data()
}
