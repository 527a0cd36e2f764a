//! Reads a graph.

use std::collections::BTreeMap;

use super::lexer::{Cursor, Token};
use super::print::default_name;
use super::tensor::{Constant, Constants};
use super::{Resolve, op, types};
use crate::{Error, Graph, Node, NodeId, Op, Operands, Output, Subgraph, Type, Value, ValueInfo};

/// Reads the text of one graph; constants that it only names come from `resolve`.
///
/// Errors name line and column. Texts that nest too deep or claim too much memory are errors too.
pub fn parse(text: &str, resolve: &dyn Resolve) -> Result<Graph, Error> {
    let mut parser = Parser { cursor: Cursor::new(text)?, constants: Constants::new(resolve) };
    let graph = parser.graph()?;
    match parser.cursor.token() {
        Token::End => Ok(graph),
        _ => Err(parser.cursor.expected("the end of the text after the graph")),
    }
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    constants: Constants<'a>,
}

/// The graph being read, and its values by what the text calls them.
struct Scope<'a> {
    graph: Graph,
    values: BTreeMap<&'a str, Value>,
}

/// A value as written, and where.
type Id<'a> = (&'a str, usize);

impl<'a> Parser<'a> {
    fn graph(&mut self) -> Result<Graph, Error> {
        if !self.cursor.eat_word("graph")? {
            return Err(self.cursor.expected("`graph`"));
        }
        let name = self.at_name()?;
        let mut scope = Scope { graph: Graph::new(name), values: BTreeMap::new() };
        self.cursor.expect("(", "before the inputs")?;
        let mut inputs = Vec::new();
        while !self.cursor.eat(")")? {
            if !inputs.is_empty() {
                self.cursor.expect(",", "or `)` after an input")?;
            }
            inputs.push(self.input(&mut scope)?);
        }
        self.cursor.expect("->", "and the outputs after the inputs")?;
        self.cursor.expect("(", "before the outputs")?;
        let outputs = self.cursor.list(")", |cursor| {
            let name = cursor.name("the name of an output")?;
            cursor.expect(":", "and a type (`?` when unknown) after the output's name")?;
            Ok((name, types::parse(cursor)?))
        })?;
        self.cursor.expect("{", "before the body")?;
        self.about(&mut scope.graph)?;
        while matches!(self.cursor.token(), Token::Value(_) | Token::Sign("(")) {
            self.statement(&mut scope)?;
        }
        self.results(&mut scope, outputs)?;
        self.cursor.expect("}", "after the results")?;
        for (id, place) in inputs {
            let value = self.value(&scope, id, place)?;
            scope.graph.list_as_input(value.node);
        }
        Ok(scope.graph)
    }

    fn input(&mut self, scope: &mut Scope<'a>) -> Result<Id<'a>, Error> {
        let id = self.id()?;
        if self.cursor.eat(":")? {
            let ty = types::parse(&mut self.cursor)?;
            let name = self.names("", &[id])?;
            let mut node = Node::new(
                Op::Input,
                "",
                name.into_iter().map(|name| ValueInfo { name, ty: ty.clone() }).collect(),
            );
            node.doc = self.doc()?;
            self.define(scope, node, &[], &[id])?;
        }
        Ok(id)
    }

    fn about(&mut self, graph: &mut Graph) -> Result<(), Error> {
        loop {
            let place = self.cursor.place();
            if self.cursor.eat_word("opset")? {
                let domain = self.cursor.name("a domain")?;
                self.cursor.expect("=", "and a version after the domain")?;
                let version = self.cursor.integer("a version")?;
                if graph.opsets.insert(domain.clone(), version).is_some() {
                    return Err(self.cursor.error_at(place, format!("opset {domain:?} is given twice")));
                }
            } else if self.cursor.token() == &Token::Word("doc") {
                if !graph.doc.is_empty() {
                    return Err(self.cursor.error("the graph has a doc already"));
                }
                graph.doc = self.doc()?;
            } else if self.cursor.token() == &Token::Word("metadata") {
                graph.metadata.extend(self.metadata()?);
            } else {
                return Ok(());
            }
        }
    }

    fn statement(&mut self, scope: &mut Scope<'a>) -> Result<(), Error> {
        let mut results = Vec::new();
        if self.cursor.eat("(")? {
            self.cursor.expect(")", "before the `=` of a statement without results")?;
        } else {
            results.push(self.id()?);
            while self.cursor.eat(",")? {
                results.push(self.id()?);
            }
        }
        self.cursor.expect("=", "and an operation after the results")?;
        let place = self.cursor.place();
        let Token::Word(mnemonic) = *self.cursor.token() else {
            return Err(self.cursor.expected("an operation"));
        };
        self.cursor.next()?;
        let operands = self.operands(scope)?;
        let attributes = op::attributes(&mut self.cursor)?;
        let is_constant = mnemonic == op::WEIGHT || mnemonic == op::CONSTANT;
        let written = self.types(results.len())?;
        let data = if is_constant { Some(self.constant(&written)?) } else { None };
        let node_name = self.at_name()?;
        let names = self.names(&node_name, &results)?;
        let op = match data {
            None => op::build(&self.cursor, mnemonic, place, &attributes)?,
            Some(data) => {
                let value_name = names.first().map(String::as_str).unwrap_or_default();
                let tensor = match data {
                    Constant::Inline(tensor) => tensor,
                    Constant::Named { ty, hash, place } => {
                        self.constants.find(&self.cursor, value_name, &ty, hash, place)?
                    }
                };
                op::constant(&self.cursor, mnemonic, &attributes, tensor)?
            }
        };
        let types = match (&written, op.as_constant()) {
            (Some(types), _) => types.clone(),
            (None, Some(tensor)) => vec![Type::of(tensor); results.len()],
            (None, None) => vec![Type::Unknown; results.len()],
        };
        let infos = names.into_iter().zip(types).map(|(name, ty)| ValueInfo { name, ty }).collect();
        let mut node = Node::new(op, node_name, infos);
        node.doc = self.doc()?;
        node.metadata = self.metadata()?;
        while self.cursor.eat_word("with")? {
            node.subgraphs.push(self.subgraph()?);
        }
        self.define(scope, node, &operands, &results)?;
        Ok(())
    }

    fn operands(&mut self, scope: &Scope<'a>) -> Result<Operands, Error> {
        let mut operands = Operands::new();
        loop {
            let place = self.cursor.place();
            if self.cursor.eat_word("_")? {
                operands.push(None);
            } else if let Token::Value(id) = *self.cursor.token()
                // What starts a line after an operation without operands is the next statement.
                && !(operands.is_empty() && self.cursor.starts_line())
            {
                self.cursor.next()?;
                operands.push(Some(self.value(scope, id, place)?));
            } else if operands.is_empty() {
                return Ok(operands);
            } else {
                return Err(self.cursor.expected("an operand (`_` for an absent one)"));
            }
            if !self.cursor.eat(",")? {
                return Ok(operands);
            }
        }
    }

    fn types(&mut self, results: usize) -> Result<Option<Vec<Type>>, Error> {
        let place = self.cursor.place();
        if !self.cursor.eat(":")? {
            return Ok(None);
        }
        let mut types = vec![types::parse(&mut self.cursor)?];
        while self.cursor.eat(",")? {
            types.push(types::parse(&mut self.cursor)?);
        }
        if types.len() != results {
            let message = format!("expected a type for each of {results} results, found {}", types.len());
            return Err(self.cursor.error_at(place, message));
        }
        Ok(Some(types))
    }

    fn constant(&mut self, written: &Option<Vec<Type>>) -> Result<Constant, Error> {
        let ty = written.as_deref().and_then(|types| types.first()).cloned().unwrap_or_default();
        let place = self.cursor.place();
        if self.cursor.eat("=")? {
            self.constants.parse(&mut self.cursor, &ty)
        } else {
            Ok(Constant::Named { ty, hash: None, place })
        }
    }

    fn subgraph(&mut self) -> Result<Subgraph, Error> {
        let attribute = self.cursor.name("the name of the subgraph's attribute")?;
        let mut captures = Vec::new();
        if self.cursor.eat_word("captures")? {
            self.cursor.expect("[", "and operand slots after `captures`")?;
            captures = self.cursor.list("]", |cursor| cursor.integer("an operand slot"))?;
        }
        self.cursor.expect("=", "and a graph after the attribute")?;
        self.cursor.enter()?;
        let graph = self.graph()?;
        self.cursor.leave();
        Ok(Subgraph { attribute, graph, captures })
    }

    fn results(&mut self, scope: &mut Scope<'a>, declared: Vec<(String, Type)>) -> Result<(), Error> {
        let place = self.cursor.place();
        if !self.cursor.eat_word("return")? {
            return Err(self.cursor.expected("a statement or `return`"));
        }
        let values = self.operands(scope)?;
        if values.len() != declared.len() {
            let message = format!("the graph has {} outputs, found {} results", declared.len(), values.len());
            return Err(self.cursor.error_at(place, message));
        }
        let mut outputs = Vec::new();
        for (value, (name, declared)) in values.into_iter().zip(declared) {
            let Some(value) = value else {
                return Err(self.cursor.error_at(place, "results cannot be absent"));
            };
            outputs.push(Output { value, name, declared });
        }
        scope.graph.set_outputs(outputs);
        Ok(())
    }

    fn at_name(&mut self) -> Result<String, Error> {
        if self.cursor.eat("@")? { self.cursor.name("a name after `@`") } else { Ok(String::new()) }
    }

    /// The names of the results: `as y, *_1`, where `*` is the node's name, or the default ones.
    fn names(&mut self, node: &str, results: &[Id<'a>]) -> Result<Vec<String>, Error> {
        if !self.cursor.eat_word("as")? {
            return Ok(results.iter().map(|(id, _)| default_name(id, node, results.len())).collect());
        }
        let mut names = Vec::new();
        for index in 0..results.len() {
            if index > 0 {
                self.cursor.expect(",", &format!("and a name for each of {} results", results.len()))?;
            }
            let prefix = if self.cursor.eat("*")? { node } else { "" };
            names.push(format!("{prefix}{}", self.cursor.name("the name of a value")?));
        }
        Ok(names)
    }

    fn doc(&mut self) -> Result<String, Error> {
        if self.cursor.eat_word("doc")? { self.text("the documentation") } else { Ok(String::new()) }
    }

    fn metadata(&mut self) -> Result<Vec<(String, String)>, Error> {
        let mut metadata = Vec::new();
        while self.cursor.eat_word("metadata")? {
            let key = self.cursor.name("the key of the metadata")?;
            self.cursor.expect("=", "after the key")?;
            metadata.push((key, self.text("the value of the metadata")?));
        }
        Ok(metadata)
    }

    fn text(&mut self, what: &str) -> Result<String, Error> {
        match self.cursor.token() {
            Token::Text(_) => self.cursor.name(what),
            _ => Err(self.cursor.expected(&format!("{what} in quotes"))),
        }
    }

    fn id(&mut self) -> Result<Id<'a>, Error> {
        let place = self.cursor.place();
        match *self.cursor.token() {
            Token::Value(id) => {
                self.cursor.next()?;
                Ok((id, place))
            }
            _ => Err(self.cursor.expected("a value (`%name` or `%number`)")),
        }
    }

    fn value(&self, scope: &Scope<'a>, id: &str, place: usize) -> Result<Value, Error> {
        let names: Vec<_> = match scope.values.get(id) {
            Some(value) => return Ok(*value),
            None => scope
                .values
                .keys()
                .copied()
                .filter(|name| !name.starts_with(|c: char| c.is_ascii_digit()))
                .collect(),
        };
        let near = super::near(id, &names);
        Err(self.cursor.error_at(place, format!("%{id} is not defined before its use{near}")))
    }

    fn define(
        &self,
        scope: &mut Scope<'a>,
        node: Node,
        operands: &[Option<Value>],
        results: &[Id<'a>],
    ) -> Result<NodeId, Error> {
        let place = results.first().map_or(self.cursor.place(), |(_, place)| *place);
        let node =
            scope.graph.insert(node, operands).map_err(|e| self.cursor.error_at(place, e.to_string()))?;
        for (slot, (id, place)) in results.iter().enumerate() {
            if scope.values.insert(id, Value { node, slot }).is_some() {
                return Err(self.cursor.error_at(*place, format!("%{id} is defined twice")));
            }
        }
        Ok(node)
    }
}
