/* Graphs of CANN's graph engine, as MindSpore's export to AIR builds them: kept as they are told, and written to a file.
 *
 * Only what the export calls; everything else of the engine is a function of `device.c` that does nothing. The file is not
 * GE's own: a line with the number of bytes of JSON, the JSON, and then the numbers of all tensors, to which it points.
 * acmix_ms/deploy/ascend/air.py reads it. Names and layouts of classes are those that MindSpore was compiled for: the old
 * ABI of libstdc++ (_GLIBCXX_USE_CXX11_ABI=0), every object a shared pointer, `Operator` with a table of virtual functions.
 */
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace ge {
using std::function;
using std::map;
using std::pair;
using std::shared_ptr;
using std::string;
using std::vector;

using Status = uint32_t;
constexpr Status OK = 0, FAILED = 0xFFFFFFFF;
enum DataType : int { FLOAT };
enum Format : int { ND = 2 };
enum Placement : int { HOST };

class AscendString {
 public:
  AscendString(const char *text);
  const char *GetString() const;
  bool operator<(const AscendString &other) const;
  shared_ptr<string> text;
};
AscendString::AscendString(const char *text) : text(std::make_shared<string>(text ? text : "")) {}
const char *AscendString::GetString() const { return text ? text->c_str() : ""; }
bool AscendString::operator<(const AscendString &other) const { return strcmp(GetString(), other.GetString()) < 0; }

/* ------------------------------------------------------------------------------------------------------------- tensors */
class Shape {
 public:
  Shape();
  explicit Shape(const vector<int64_t> &sizes);
  size_t GetDimNum() const;
  int64_t GetDim(size_t axis) const;
  int64_t GetShapeSize() const;
  Status SetDim(size_t axis, int64_t size);
  vector<int64_t> GetDims() const;
  shared_ptr<vector<int64_t>> sizes;
};
Shape::Shape() : sizes(std::make_shared<vector<int64_t>>()) {}
Shape::Shape(const vector<int64_t> &sizes) : sizes(std::make_shared<vector<int64_t>>(sizes)) {}
size_t Shape::GetDimNum() const { return sizes->size(); }
int64_t Shape::GetDim(size_t axis) const { return axis < sizes->size() ? (*sizes)[axis] : 0; }
int64_t Shape::GetShapeSize() const {
  int64_t product = 1;
  for (int64_t size : *sizes) product *= size;
  return product;
}
Status Shape::SetDim(size_t axis, int64_t size) { return axis < sizes->size() ? ((*sizes)[axis] = size, OK) : FAILED; }
vector<int64_t> Shape::GetDims() const { return *sizes; }

struct Description {
  vector<int64_t> shape, origin;
  Format format = ND;
  DataType dtype = FLOAT;
};
class TensorDesc {
 public:
  TensorDesc();
  explicit TensorDesc(Shape shape, Format format, DataType dtype);
  TensorDesc(const TensorDesc &other);
  TensorDesc(TensorDesc &&other);
  TensorDesc &operator=(const TensorDesc &other);
  TensorDesc &operator=(TensorDesc &&other);
  Shape GetShape() const;
  Shape GetOriginShape() const;
  Format GetFormat() const;
  DataType GetDataType() const;
  void SetShape(const Shape &shape);
  void SetOriginShape(const Shape &shape);
  void SetFormat(Format format);
  void SetOriginFormat(Format format);
  void SetDataType(DataType dtype);
  void SetRealDimCnt(int64_t count);
  void SetPlacement(Placement placement);
  shared_ptr<Description> own; /* of this object alone: a copy has its own */
};
TensorDesc::TensorDesc() : own(std::make_shared<Description>()) {}
TensorDesc::TensorDesc(Shape shape, Format format, DataType dtype) : own(std::make_shared<Description>()) {
  *own = {*shape.sizes, {}, format, dtype};
}
TensorDesc::TensorDesc(const TensorDesc &other) : own(std::make_shared<Description>(*other.own)) {}
TensorDesc::TensorDesc(TensorDesc &&other) : TensorDesc(static_cast<const TensorDesc &>(other)) {}
TensorDesc &TensorDesc::operator=(const TensorDesc &other) { return *own = *other.own, *this; }
TensorDesc &TensorDesc::operator=(TensorDesc &&other) { return *own = *other.own, *this; }
Shape TensorDesc::GetShape() const { return Shape(own->shape); }
Shape TensorDesc::GetOriginShape() const { return Shape(own->origin); }
Format TensorDesc::GetFormat() const { return own->format; }
DataType TensorDesc::GetDataType() const { return own->dtype; }
void TensorDesc::SetShape(const Shape &shape) { own->shape = *shape.sizes; }
void TensorDesc::SetOriginShape(const Shape &shape) { own->origin = *shape.sizes; }
void TensorDesc::SetFormat(Format format) { own->format = format; }
void TensorDesc::SetOriginFormat(Format) {}
void TensorDesc::SetDataType(DataType dtype) { own->dtype = dtype; }
void TensorDesc::SetRealDimCnt(int64_t) {}
void TensorDesc::SetPlacement(Placement) {}

class Tensor {
 public:
  Tensor();
  explicit Tensor(const TensorDesc &description);
  Tensor(const TensorDesc &description, const uint8_t *data, size_t size);
  uint8_t *GetData();
  size_t GetSize() const;
  TensorDesc GetTensorDesc() const;
  Status SetTensorDesc(const TensorDesc &description);
  Status SetData(const string &data);
  Status SetData(const vector<string> &data);
  Status SetData(const uint8_t *data, size_t size);
  Status SetData(uint8_t *data, size_t size, const function<void(uint8_t *)> &release);
  struct Content {
    TensorDesc description;
    string data;
  };
  shared_ptr<Content> content;
};
Tensor::Tensor() : content(std::make_shared<Content>()) {}
Tensor::Tensor(const TensorDesc &description) : Tensor() { content->description = description; }
Tensor::Tensor(const TensorDesc &description, const uint8_t *data, size_t size) : Tensor(description) { SetData(data, size); }
uint8_t *Tensor::GetData() { return reinterpret_cast<uint8_t *>(&content->data[0]); }
size_t Tensor::GetSize() const { return content->data.size(); }
TensorDesc Tensor::GetTensorDesc() const { return content->description; }
Status Tensor::SetTensorDesc(const TensorDesc &description) { return content->description = description, OK; }
Status Tensor::SetData(const string &data) { return content->data = data, OK; }
Status Tensor::SetData(const vector<string> &data) {
  content->data.clear();
  for (const string &part : data) content->data += part + '\0';
  return OK;
}
Status Tensor::SetData(const uint8_t *data, size_t size) {
  return content->data.assign(reinterpret_cast<const char *>(data), size), OK;
}
Status Tensor::SetData(uint8_t *data, size_t size, const function<void(uint8_t *)> &release) {
  SetData(const_cast<const uint8_t *>(data), size);
  if (release) release(data);
  return OK;
}

/* ---------------------------------------------------------------------------------------------------------- attributes */
using Value = std::variant<int64_t, bool, float, string, vector<int64_t>, vector<float>, vector<string>,
                           vector<vector<int64_t>>, Tensor>;

template <class T>
constexpr bool whole = (std::is_integral_v<T> && !std::is_same_v<T, bool>) || std::is_enum_v<T>;
template <class T>
Value value_of(const T &value) {
  if constexpr (whole<T>) return static_cast<int64_t>(value);
  else if constexpr (std::is_same_v<T, AscendString>) return string(value.GetString());
  else if constexpr (std::is_convertible_v<T, const char *>) return string(value);
  else return value;
}
template <class T>
Value value_of(const vector<T> &values) {
  if constexpr (std::is_integral_v<T> || std::is_enum_v<T>) {
    vector<int64_t> found;
    for (auto value : values) found.push_back(static_cast<int64_t>(value));
    return found;
  } else if constexpr (std::is_same_v<T, AscendString>) {
    vector<string> found;
    for (const auto &value : values) found.push_back(value.GetString());
    return found;
  } else return values;
}
template <class T>
Status get(const Value &value, T &out) {
  if constexpr (whole<T>) {
    const auto *found = std::get_if<int64_t>(&value);
    return found ? (out = static_cast<T>(*found), OK) : FAILED;
  } else {
    const auto *found = std::get_if<T>(&value);
    return found ? (out = *found, OK) : FAILED;
  }
}
template <class T>
std::enable_if_t<whole<T>, Status> get(const Value &value, vector<T> &out) {
  const auto *found = std::get_if<vector<int64_t>>(&value);
  if (!found) return FAILED;
  out.clear();
  for (int64_t one : *found) out.push_back(static_cast<T>(one));
  return OK;
}

/* ----------------------------------------------------------------------------------------------------------- operators */
struct Node {
  struct Source {
    shared_ptr<Node> node;
    int output;
  };
  string name, type;
  vector<string> inputs, outputs; /* as the operator's prototype orders them */
  std::set<string> required;      /* inputs and attributes that it cannot be without */
  bool known = true;              /* whether there is a prototype; without one any input and attribute is taken */
  map<string, Value> attributes;
  map<string, Source> sources;
  map<string, TensorDesc> described;
  map<string, unsigned> dynamic;
  vector<shared_ptr<Node>> after;
  vector<std::weak_ptr<Node>> users;

  int output(const string &name) {
    auto found = std::find(outputs.begin(), outputs.end(), name);
    if (found == outputs.end() && !known) found = outputs.insert(found, name);
    return found == outputs.end() ? 0 : static_cast<int>(found - outputs.begin());
  }
  void add(vector<string> &names, const string &name, unsigned count, size_t at) { /* name0, name1... */
    unsigned &had = dynamic[name];
    for (unsigned i = 0; i < count; i++) names.insert(names.begin() + std::min(at + i, names.size()), name + std::to_string(had + i));
    had += count;
  }
};

class Graph;
class Operator;
class TensorType { public: TensorType(const std::initializer_list<DataType> &); shared_ptr<void> own; };
class Promote { public: Promote(const std::initializer_list<const char *> &); shared_ptr<void> own; };
TensorType::TensorType(const std::initializer_list<DataType> &) {}
Promote::Promote(const std::initializer_list<const char *> &) {}

/* X(name's type, value's type) for every form of a function for attributes that MindSpore calls; REGISTERED has names of
 * one type. */
#define REGISTERED(X) X(bool) X(float) X(int64_t) X(const AscendString &) X(const DataType &) X(const Tensor &) \
  X(const vector<float> &) X(const vector<AscendString> &) X(const vector<DataType> &) X(const vector<int64_t> &) \
  X(const vector<vector<int64_t>> &)
#define SET(X) X(const char *, bool) X(const char *, const char *) X(const char *, float) X(const char *, int32_t) \
  X(const char *, int64_t) X(const char *, uint32_t) X(const char *, const DataType &) X(const char *, const Tensor &) \
  X(const char *, const vector<float> &) X(const char *, const vector<DataType> &) X(const char *, const vector<int32_t> &) \
  X(const char *, const vector<int64_t> &) X(const char *, const vector<vector<int64_t>> &) \
  X(const string &, bool) X(const string &, float) X(const string &, int32_t) X(const string &, int64_t) \
  X(const string &, const string &) X(const string &, const vector<bool> &) X(const string &, const vector<float> &) \
  X(const string &, const vector<int32_t> &) X(const string &, const vector<int64_t> &) X(const string &, const vector<string> &)
#define GOT(X) X(const char *, bool) X(const char *, float) X(const char *, int32_t) X(const char *, int64_t) \
  X(const char *, DataType) X(const char *, Tensor) X(const char *, vector<float>) X(const char *, vector<DataType>) \
  X(const char *, vector<int32_t>) X(const char *, vector<int64_t>) X(const char *, vector<vector<int64_t>>) \
  X(const string &, string) X(const string &, vector<string>)
/* X(name's type), for functions that name an operator's inputs and outputs by either kind of string. */
#define NAMED(X) X(const char *) X(const string &)

class Operator {
 public:
  Operator() {}
  explicit Operator(const string &type);
  explicit Operator(const char *type);
  Operator(const string &name, const string &type);
  Operator(const char *name, const char *type);
  Operator(const AscendString &name, const AscendString &type);
  virtual ~Operator() = default;
  string GetName() const;
  string GetOpType() const;
  Status GetName(AscendString &name) const;
  Status GetOpType(AscendString &type) const;

  void InputRegister(const char *name, const char *types);
  void InputRegister(const string &name);
  void OptionalInputRegister(const char *name, const char *types);
  void OptionalInputRegister(const string &name);
  void OutputRegister(const char *name, const char *types);
  void OutputRegister(const string &name);
  void DynamicInputRegister(const char *name, unsigned count, bool last);
  void DynamicInputRegister(const char *name, unsigned count, const char *types, bool last);
  void DynamicInputRegisterByIndex(const char *name, unsigned count, size_t at);
  void DynamicOutputRegister(const char *name, unsigned count, bool last);
  void DynamicOutputRegister(const char *name, unsigned count, const char *types, bool last);
  void RequiredAttrRegister(const string &name);
  void RequiredAttrWithTypeRegister(const char *name, const char *type);
  void DataTypeRegister(const char *name, const TensorType &types);
  void DataTypeRegister(const char *name, const Promote &types);
  void InferFuncRegister(const function<Status(Operator &)> &function);
  void SetSubgraphBuilder(const char *name, uint32_t index, const function<Graph()> &builder);
  void SubgraphCountRegister(const char *name, uint32_t count);

  Operator &SetInput(const char *name, const Operator &from);
  Operator &SetInput(const string &name, const Operator &from);
  Operator &SetInput(const string &name, const Operator &from, const string &output);
  Operator &SetInput(const char *name, uint32_t index, const Operator &from);
  Operator &SetInput(const char *name, uint32_t index, const Operator &from, const char *output);
  Operator &AddControlInput(const Operator &before);
  Operator &link(const string &name, const Operator &from, int output);

  TensorDesc GetOutputDesc(const string &name) const;
  TensorDesc GetOutputDesc(uint32_t index) const;
  int32_t GetDynamicOutputNum(const string &name) const;
  Status UpdateDynamicOutputDesc(const char *name, uint32_t index, const TensorDesc &description);
#define DECLARE(NAME)                                                        \
  Status UpdateInputDesc(NAME name, const TensorDesc &description);          \
  Status UpdateOutputDesc(NAME name, const TensorDesc &description);
  NAMED(DECLARE)
#undef DECLARE
#define DECLARE(T) void AttrRegister(const char *name, T value);
  REGISTERED(DECLARE)
#undef DECLARE
#define DECLARE(NAME, T) Operator &SetAttr(NAME name, T value);
  SET(DECLARE)
#undef DECLARE
#define DECLARE(NAME, T) Status GetAttr(NAME name, T &value) const;
  GOT(DECLARE)
#undef DECLARE
  shared_ptr<Node> node;
};

static shared_ptr<Node> new_node(const string &name, const string &type) {
  static int made = 0;
  auto node = std::make_shared<Node>();
  node->name = name.empty() ? type + "_" + std::to_string(made++) : name;
  node->type = type;
  return node;
}
Operator::Operator(const string &type) : node(new_node("", type)) {}
Operator::Operator(const char *type) : node(new_node("", type)) {}
Operator::Operator(const string &name, const string &type) : node(new_node(name, type)) {}
Operator::Operator(const char *name, const char *type) : node(new_node(name, type)) {}
Operator::Operator(const AscendString &name, const AscendString &type) : node(new_node(name.GetString(), type.GetString())) {}
string Operator::GetName() const { return node ? node->name : ""; }
string Operator::GetOpType() const { return node ? node->type : ""; }
Status Operator::GetName(AscendString &name) const { return name = AscendString(GetName().c_str()), OK; }
Status Operator::GetOpType(AscendString &type) const { return type = AscendString(GetOpType().c_str()), OK; }

/* What a prototype has. */
void Operator::InputRegister(const string &name) { node->inputs.push_back(name), node->required.insert(name); }
void Operator::InputRegister(const char *name, const char *) { InputRegister(string(name)); }
void Operator::OptionalInputRegister(const string &name) { node->inputs.push_back(name); }
void Operator::OptionalInputRegister(const char *name, const char *) { OptionalInputRegister(string(name)); }
void Operator::OutputRegister(const string &name) { node->outputs.push_back(name); }
void Operator::OutputRegister(const char *name, const char *) { OutputRegister(string(name)); }
void Operator::DynamicInputRegisterByIndex(const char *name, unsigned count, size_t at) { node->add(node->inputs, name, count, at); }
void Operator::DynamicInputRegister(const char *name, unsigned count, bool last) {
  node->add(node->inputs, name, count, last ? node->inputs.size() : 0);
}
void Operator::DynamicInputRegister(const char *name, unsigned count, const char *, bool last) { DynamicInputRegister(name, count, last); }
void Operator::DynamicOutputRegister(const char *name, unsigned count, bool last) {
  node->add(node->outputs, name, count, last ? node->outputs.size() : 0);
}
void Operator::DynamicOutputRegister(const char *name, unsigned count, const char *, bool last) { DynamicOutputRegister(name, count, last); }
void Operator::RequiredAttrRegister(const string &name) { node->required.insert(name); }
void Operator::RequiredAttrWithTypeRegister(const char *name, const char *) { node->required.insert(name); }
void Operator::DataTypeRegister(const char *, const TensorType &) {}
void Operator::DataTypeRegister(const char *, const Promote &) {}
void Operator::InferFuncRegister(const function<Status(Operator &)> &) {}
void Operator::SetSubgraphBuilder(const char *, uint32_t, const function<Graph()> &) {}
void Operator::SubgraphCountRegister(const char *, uint32_t) {}

/* Edges. */
Operator &Operator::link(const string &name, const Operator &from, int output) {
  if (!node || !from.node) return *this;
  if (std::find(node->inputs.begin(), node->inputs.end(), name) == node->inputs.end()) node->inputs.push_back(name);
  node->sources[name] = {from.node, output};
  from.node->users.push_back(node);
  return *this;
}
Operator &Operator::SetInput(const char *name, const Operator &from) { return link(name, from, 0); }
Operator &Operator::SetInput(const string &name, const Operator &from) { return link(name, from, 0); }
Operator &Operator::SetInput(const string &name, const Operator &from, const string &output) {
  return link(name, from, from.node ? from.node->output(output) : 0);
}
Operator &Operator::SetInput(const char *name, uint32_t index, const Operator &from) { return link(name + std::to_string(index), from, 0); }
Operator &Operator::SetInput(const char *name, uint32_t index, const Operator &from, const char *output) {
  return SetInput(name + std::to_string(index), from, string(output));
}
Operator &Operator::AddControlInput(const Operator &before) {
  if (node && before.node) node->after.push_back(before.node), before.node->users.push_back(node);
  return *this;
}

/* Outputs and attributes. */
TensorDesc Operator::GetOutputDesc(const string &name) const {
  auto found = node->described.find(name);
  return found == node->described.end() ? TensorDesc() : found->second;
}
TensorDesc Operator::GetOutputDesc(uint32_t index) const {
  return index < node->outputs.size() ? GetOutputDesc(node->outputs[index]) : TensorDesc();
}
int32_t Operator::GetDynamicOutputNum(const string &name) const {
  auto found = node->dynamic.find(name);
  return found == node->dynamic.end() ? 0 : found->second;
}
Status Operator::UpdateDynamicOutputDesc(const char *name, uint32_t index, const TensorDesc &description) {
  return UpdateOutputDesc(name + std::to_string(index), description);
}
#define DEFINE(NAME)                                                             \
  Status Operator::UpdateInputDesc(NAME, const TensorDesc &) { return OK; }      \
  Status Operator::UpdateOutputDesc(NAME name, const TensorDesc &description) {  \
    node->output(name);                                                          \
    return node->described[name] = description, OK;                              \
  }
NAMED(DEFINE)
#undef DEFINE
#define DEFINE(T) void Operator::AttrRegister(const char *name, T value) { node->attributes[name] = value_of(value); }
REGISTERED(DEFINE)
#undef DEFINE
#define DEFINE(NAME, T)                                  \
  Operator &Operator::SetAttr(NAME name, T value) {      \
    if (node) node->attributes[name] = value_of(value);  \
    return *this;                                        \
  }
SET(DEFINE)
#undef DEFINE
#define DEFINE(NAME, T)                                                        \
  Status Operator::GetAttr(NAME name, T &value) const {                        \
    if (!node) return FAILED;                                                  \
    auto found = node->attributes.find(name);                                  \
    return found == node->attributes.end() ? FAILED : get(found->second, value); \
  }
GOT(DEFINE)
#undef DEFINE

/* Prototypes, which MindSpore's library brings for the operators that it converts to. */
static map<string, function<Operator(const string &)>> &prototypes() {
  static map<string, function<Operator(const string &)>> all;
  return all;
}
class OperatorCreatorRegister {
 public:
  OperatorCreatorRegister(const string &type, const function<Operator(const string &)> &create);
  OperatorCreatorRegister(const char *type, const function<Operator(const AscendString &)> &create);
};
OperatorCreatorRegister::OperatorCreatorRegister(const string &type, const function<Operator(const string &)> &create) {
  prototypes()[type] = create;
}
OperatorCreatorRegister::OperatorCreatorRegister(const char *type, const function<Operator(const AscendString &)> &create) {
  prototypes()[type] = [create](const string &name) { return create(AscendString(name.c_str())); };
}
class InferShapeFuncRegister {
 public:
  InferShapeFuncRegister(const string &type, const function<Status(Operator &)> &function);
};
InferShapeFuncRegister::InferShapeFuncRegister(const string &, const function<Status(Operator &)> &) {}
class OperatorFactory {
 public:
  static Operator CreateOperator(const string &name, const string &type);
  static Operator CreateOperator(const char *name, const char *type);
  static bool IsExistOp(const string &type);
  static bool IsExistOp(const char *type);
};
Operator OperatorFactory::CreateOperator(const string &name, const string &type) {
  auto found = prototypes().find(type);
  if (found != prototypes().end()) return found->second(name);
  Operator made(name, type);
  made.node->known = false;
  return made;
}
Operator OperatorFactory::CreateOperator(const char *name, const char *type) { return CreateOperator(string(name), string(type)); }
bool OperatorFactory::IsExistOp(const string &) { return true; }
bool OperatorFactory::IsExistOp(const char *) { return true; }

/* --------------------------------------------------------------------------------------------------------------- graph */
class GNode;
using GNodePtr = shared_ptr<GNode>;
class GraphBuffer {
 public:
  GraphBuffer();
  ~GraphBuffer();
  const uint8_t *GetData() const;
  size_t GetSize() const;
  shared_ptr<string> bytes;
};
GraphBuffer::GraphBuffer() : bytes(std::make_shared<string>()) {}
GraphBuffer::~GraphBuffer() {}
const uint8_t *GraphBuffer::GetData() const { return reinterpret_cast<const uint8_t *>(bytes->data()); }
size_t GraphBuffer::GetSize() const { return bytes->size(); }

class Graph {
 public:
  explicit Graph(const string &name);
  explicit Graph(const char *name);
  Graph &SetInputs(const vector<Operator> &inputs);
  Graph &SetOutputs(const vector<Operator> &outputs);
  Graph &SetOutputs(const vector<pair<Operator, string>> &outputs);
  const string &GetName() const;
  void SetNeedIteration(bool needed);
  Status SaveToFile(const string &path) const;
  Status SaveToMem(GraphBuffer &buffer) const;
  vector<GNode> GetDirectNode() const;
  Status RemoveNode(GNode &node);
  Status RemoveEdge(GNode &from, int32_t output, GNode &to, int32_t input);
  Status AddDataEdge(GNode &from, int32_t output, GNode &to, int32_t input);
  Status AddControlEdge(GNode &from, GNode &to);
  struct Content {
    string name;
    vector<shared_ptr<Node>> inputs, nodes;
    vector<pair<shared_ptr<Node>, int>> outputs;
  };
  shared_ptr<Content> content;
};
Graph::Graph(const string &name) : content(std::make_shared<Content>()) { content->name = name; }
Graph::Graph(const char *name) : Graph(string(name ? name : "")) {}
const string &Graph::GetName() const { return content->name; }
void Graph::SetNeedIteration(bool) {}
/* All nodes that hang together with the inputs. */
Graph &Graph::SetInputs(const vector<Operator> &inputs) {
  auto &nodes = content->nodes;
  std::set<Node *> seen;
  auto visit = [&](const shared_ptr<Node> &node) {
    if (node && seen.insert(node.get()).second) nodes.push_back(node);
  };
  nodes.clear(), content->inputs.clear();
  for (const Operator &input : inputs) content->inputs.push_back(input.node), visit(input.node);
  for (size_t i = 0; i < nodes.size(); i++) {
    const shared_ptr<Node> node = nodes[i]; /* `nodes` grows */
    for (const auto &source : node->sources) visit(source.second.node);
    for (const auto &before : node->after) visit(before);
    for (const auto &user : node->users) visit(user.lock());
  }
  return *this;
}
Graph &Graph::SetOutputs(const vector<Operator> &outputs) {
  content->outputs.clear();
  for (const Operator &output : outputs) content->outputs.push_back({output.node, 0});
  return *this;
}
Graph &Graph::SetOutputs(const vector<pair<Operator, string>> &outputs) {
  content->outputs.clear();
  for (const auto &[output, name] : outputs)
    content->outputs.push_back({output.node, name.empty() ? 0 : output.node->output(name)});
  return *this;
}

/* A node as MindSpore's passes over a finished graph see it: they drop nodes that change nothing. */
class GNode {
 public:
  using Port = pair<GNodePtr, int32_t>;
  Status GetType(AscendString &type) const;
  Status GetName(AscendString &name) const;
  size_t GetInputsSize() const;
  size_t GetOutputsSize() const;
  Port GetInDataNodesAndPortIndexs(int32_t input) const;
  vector<Port> GetOutDataNodesAndPortIndexs(int32_t output) const;
  vector<GNodePtr> GetInControlNodes() const;
  vector<GNodePtr> GetOutControlNodes() const;
  shared_ptr<pair<shared_ptr<Node>, shared_ptr<Graph::Content>>> own;
  Node &node() const { return *own->first; }
  GNodePtr other(const shared_ptr<Node> &node) const;
};
static GNode seen_from_outside(const shared_ptr<Node> &node, const shared_ptr<Graph::Content> &graph) {
  GNode made;
  made.own = std::make_shared<pair<shared_ptr<Node>, shared_ptr<Graph::Content>>>(node, graph);
  return made;
}
GNodePtr GNode::other(const shared_ptr<Node> &node) const { return std::make_shared<GNode>(seen_from_outside(node, own->second)); }
Status GNode::GetType(AscendString &type) const { return type = AscendString(node().type.c_str()), OK; }
Status GNode::GetName(AscendString &name) const { return name = AscendString(node().name.c_str()), OK; }
size_t GNode::GetInputsSize() const { return node().sources.size(); }
size_t GNode::GetOutputsSize() const { return node().outputs.size(); }
GNode::Port GNode::GetInDataNodesAndPortIndexs(int32_t input) const {
  const auto &names = node().inputs;
  auto found = input >= 0 && input < (int32_t)names.size() ? node().sources.find(names[input]) : node().sources.end();
  if (found == node().sources.end()) return {nullptr, 0};
  return {other(found->second.node), found->second.output};
}
vector<GNode::Port> GNode::GetOutDataNodesAndPortIndexs(int32_t output) const {
  vector<Port> found;
  for (const auto &user : own->second->nodes)
    for (size_t i = 0; i < user->inputs.size(); i++) {
      auto source = user->sources.find(user->inputs[i]);
      if (source != user->sources.end() && source->second.node == own->first && source->second.output == output)
        found.push_back({other(user), static_cast<int32_t>(i)});
    }
  return found;
}
vector<GNodePtr> GNode::GetInControlNodes() const {
  vector<GNodePtr> found;
  for (const auto &before : node().after) found.push_back(other(before));
  return found;
}
vector<GNodePtr> GNode::GetOutControlNodes() const {
  vector<GNodePtr> found;
  for (const auto &user : own->second->nodes)
    if (std::find(user->after.begin(), user->after.end(), own->first) != user->after.end()) found.push_back(other(user));
  return found;
}
vector<GNode> Graph::GetDirectNode() const {
  vector<GNode> found;
  for (const auto &node : content->nodes) found.push_back(seen_from_outside(node, content));
  return found;
}
Status Graph::RemoveNode(GNode &node) {
  auto &nodes = content->nodes;
  nodes.erase(std::remove(nodes.begin(), nodes.end(), node.own->first), nodes.end());
  return OK;
}
Status Graph::RemoveEdge(GNode &, int32_t, GNode &to, int32_t input) {
  const auto &names = to.node().inputs;
  return input >= 0 && input < (int32_t)names.size() && to.node().sources.erase(names[input]) ? OK : FAILED;
}
Status Graph::AddDataEdge(GNode &from, int32_t output, GNode &to, int32_t input) {
  const auto &names = to.node().inputs;
  if (input < 0 || input >= (int32_t)names.size()) return FAILED;
  to.node().sources[names[input]] = {from.own->first, output};
  return OK;
}
Status Graph::AddControlEdge(GNode &from, GNode &to) { return to.node().after.push_back(from.own->first), OK; }

/* ---------------------------------------------------------------------------------------------------------------- JSON */
class Writer {
 public:
  string json, data;

  void put(const char *literal) { json += literal; }
  void value(bool flag) { json += flag ? "true" : "false"; }
  void value(int64_t number) { json += std::to_string(number); }
  void value(float number) {
    char text[40];
    snprintf(text, sizeof text, std::isfinite(number) ? "%.9g" : "\"%g\"", number);
    json += text;
  }
  void value(const string &text) {
    json += '"';
    for (unsigned char byte : text) {
      char code[8];
      snprintf(code, sizeof code, byte < 32 || byte > 126 || byte == '"' || byte == '\\' ? "\\u%04x" : "%c", byte);
      json += code;
    }
    json += '"';
  }
  void value(const Tensor &tensor) {
    put("{\"at\":"), value(static_cast<int64_t>(data.size()));
    put(",\"size\":"), value(static_cast<int64_t>(tensor.GetSize()));
    put(",\"of\":"), value(tensor.GetTensorDesc()), put("}");
    data += tensor.content->data;
  }
  void value(const TensorDesc &description) {
    put("{\"dtype\":"), value(static_cast<int64_t>(description.own->dtype));
    put(",\"shape\":"), value(description.own->shape), put("}");
  }
  void value(const Value &any) {
    std::visit([this](const auto &one) { value(one); }, any);
  }
  void value(const Node::Source &source) {
    put("["), value(source.node->name), put(","), value(static_cast<int64_t>(source.output)), put("]");
  }
  template <class T>
  void value(const vector<T> &values) {
    between('[', ']', values, [this](const T &one) { value(one); });
  }
  template <class T>
  void value(const map<string, T> &values) {
    between('{', '}', values, [this](const pair<const string, T> &one) { value(one.first), put(":"), value(one.second); });
  }
  void value(const Node &node) {
    vector<string> missing;
    for (const string &name : node.required)
      if (!node.sources.count(name) && !node.attributes.count(name)) missing.push_back(name);
    put("{\"name\":"), value(node.name), put(",\"type\":"), value(node.type), put(",\"known\":"), value(node.known);
    put(",\"inputs\":"), value(node.inputs), put(",\"sources\":"), value(node.sources);
    put(",\"outputs\":"), value(node.outputs), put(",\"described\":"), value(node.described);
    put(",\"attributes\":"), value(node.attributes), put(",\"missing\":"), value(missing), put("}");
  }
  template <class All, class Function>
  void between(char first, char last, const All &all, Function each) {
    json += first;
    bool begun = false;
    for (const auto &one : all) {
      if (begun) json += ',';
      begun = true;
      each(one);
    }
    json += last;
  }
};
Status Graph::SaveToMem(GraphBuffer &buffer) const {
  Writer writer;
  writer.put("{\"name\":"), writer.value(content->name), writer.put(",\"inputs\":");
  writer.between('[', ']', content->inputs, [&](const shared_ptr<Node> &node) { writer.value(node->name); });
  writer.put(",\"outputs\":");
  writer.between('[', ']', content->outputs, [&](const pair<shared_ptr<Node>, int> &output) {
    writer.value(Node::Source{output.first, output.second});
  });
  writer.put(",\"nodes\":");
  writer.between('[', ']', content->nodes, [&](const shared_ptr<Node> &node) { writer.value(*node); });
  writer.put("}");
  *buffer.bytes = std::to_string(writer.json.size()) + "\n" + writer.json + writer.data;
  return OK;
}
Status Graph::SaveToFile(const string &path) const {
  GraphBuffer buffer;
  SaveToMem(buffer);
  FILE *file = fopen(path.c_str(), "wb");
  if (!file) return FAILED;
  bool written = fwrite(buffer.GetData(), 1, buffer.GetSize(), file) == buffer.GetSize();
  return fclose(file) == 0 && written ? OK : FAILED;
}
}  // namespace ge
