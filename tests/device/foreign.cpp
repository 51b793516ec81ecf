// A device for PyTorch that is no CPU though its memory is: whatever mixes the two, or draws on one with the other's generator, raises.
// Every operation runs on the CPU behind a check; views and copies, which cannot go that way, are written out.

#include <ATen/EmptyTensor.h>
#include <ATen/InferSize.h>
#include <ATen/TensorUtils.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/extension.h>

namespace {

using at::Tensor;
using c10::IntArrayRef;
constexpr auto KIND = c10::DeviceType::PrivateUse1;

// ---------------------------------------------------------------------- memory, and the one device there is
struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* place = bytes ? aligned_alloc(64, (bytes + 63) / 64 * 64) : nullptr;
    return {place, place, &free, c10::Device(KIND, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { memcpy(to, from, bytes); }
};
Memory memory;
REGISTER_ALLOCATOR(KIND, &memory);

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = KIND;
  c10::DeviceType type() const override { return KIND; }
  c10::Device exchangeDevice(c10::Device) const override { return getDevice(); }
  c10::Device getDevice() const override { return c10::Device(KIND, 0); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, c10::Device(KIND, 0)); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isAvailable() const override { return true; }
};

bool is_ours(const Tensor& t) { return t.defined() && t.device().type() == KIND; }

// The same memory as a CPU tensor.
Tensor on_cpu(const Tensor& t) {
  if (!is_ours(t)) return t;
  void* data = t.numel() ? t.data_ptr() : static_cast<void*>(&memory);
  return at::from_blob(data, t.sizes(), t.strides(), [t](void*) {}, at::TensorOptions().dtype(t.dtype()).device(at::kCPU));
}

Tensor made(IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>, std::optional<c10::Device>,
            std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype), format);
}

Tensor made_strided(IntArrayRef size, IntArrayRef stride, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
                    std::optional<c10::Device>, std::optional<bool>) {
  auto keys = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(size, stride, &memory, keys, c10::dtype_or_default(dtype));
}

Tensor copied(const Tensor& from, const Tensor& to, bool) {
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

Tensor copied_and_resized(const Tensor& from, const Tensor& to) {
  to.resize_(from.sizes());
  return copied(from, to, false);
}

const Tensor& resized(const Tensor& self, IntArrayRef size, std::optional<c10::MemoryFormat>) {
  auto storage = self.storage();
  size_t bytes = (c10::multiply_integers(size) + self.storage_offset()) * self.dtype().itemsize();
  if (bytes > storage.nbytes()) {
    auto place = memory.allocate(bytes);
    if (storage.nbytes()) memcpy(place.get(), storage.data(), storage.nbytes());
    storage.set_data_ptr(std::move(place));
    storage.set_nbytes(bytes);
  }
  self.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  return self;
}

// ---------------------------------------------------------------------- views
Tensor seen_as(const Tensor& self, IntArrayRef size, IntArrayRef stride, int64_t offset, caffe2::TypeMeta dtype) {
  auto view = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(self.storage()), self.key_set(), dtype);
  view.unsafeGetTensorImpl()->set_storage_offset(offset);
  view.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride);
  return view;
}

Tensor strided(const Tensor& self, IntArrayRef size, IntArrayRef stride, std::optional<int64_t> offset) {
  return seen_as(self, size, stride, offset.value_or(self.storage_offset()), self.dtype());
}

Tensor viewed(const Tensor& self, IntArrayRef size) {
  auto shape = at::infer_size_dv(size, self.numel());
  auto stride = at::detail::computeStride(self.sizes(), self.strides(), shape);
  TORCH_CHECK(stride.has_value(), "view size is not compatible with the tensor's strides");
  return strided(self, shape, *stride, std::nullopt);
}

Tensor reshaped(const Tensor& self, IntArrayRef size, IntArrayRef stride) { return strided(self, size, stride, std::nullopt); }

Tensor viewed_as_real(const Tensor& self) {
  std::vector<int64_t> size = self.sizes().vec(), stride = self.strides().vec();
  for (auto& step : stride) step *= 2;
  size.push_back(2);
  stride.push_back(1);
  auto dtype = c10::scalarTypeToTypeMeta(c10::toRealValueType(self.scalar_type()));
  return seen_as(self, size, stride, 2 * self.storage_offset(), dtype);
}

at::Scalar read(const Tensor& self) { return on_cpu(self).item(); }

// ---------------------------------------------------------------------- everything else
void check(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  const auto& name = op.schema().name();
  bool ours = false, others = false, generator = false;
  auto look = [&](const Tensor& t) {
    ours = ours || is_ours(t);
    others = others || (t.defined() && !is_ours(t) && t.dim() > 0);  // a number on the CPU may stand beside tensors of any device
  };
  for (const auto& value : torch::jit::last(stack, op.schema().arguments().size())) {
    if (value.isTensor()) look(value.toTensor());
    if (value.isList())
      for (const c10::IValue& one : value.toListRef())
        if (one.isTensor()) look(one.toTensor());
    generator = generator || (value.isGenerator() && value.toGenerator().defined());
  }
  bool may_mix = name.find("aten::index") == 0 || name.find("aten::_index_put") == 0;  // as CUDA does
  TORCH_CHECK(!(ours && others) || may_mix, name, " was given tensors of two devices");
  TORCH_CHECK(!(ours && generator), name, " was given the generator of another device");
}

void through_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  check(op, *stack);
  at::native::cpu_fallback(op, stack);
}

Tensor convolved(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, c10::SymIntArrayRef stride,
                 c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed, c10::SymIntArrayRef output_padding,
                 c10::SymInt groups) {
  bool whole = bias && bias->defined();
  TORCH_CHECK(is_ours(x) && is_ours(weight) && (!whole || is_ours(*bias)), "convolution was given tensors of two devices");
  auto added = whole ? std::optional<Tensor>(on_cpu(*bias)) : std::nullopt;
  auto found = at::convolution_symint(on_cpu(x), on_cpu(weight), added, stride, padding, dilation, transposed, output_padding, groups);
  return found.to(x.device());
}

std::tuple<Tensor, Tensor, Tensor> convolved_back(const Tensor& gradient, const Tensor& x, const Tensor& weight, c10::SymIntArrayRef stride,
                                                  c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed,
                                                  c10::SymIntArrayRef output_padding, c10::SymInt groups, std::array<bool, 3> wanted) {
  std::vector<c10::SymInt> bias = {transposed ? weight.sym_size(1) * groups : weight.sym_size(0)};
  auto [a, b, c] = at::convolution_backward_symint(on_cpu(gradient), on_cpu(x), on_cpu(weight), c10::SymIntArrayRef(bias), stride, padding,
                                                   dilation, transposed, output_padding, groups, wanted);
  auto back = [&](const Tensor& t) { return t.defined() ? t.to(x.device()) : t; };
  return {back(a), back(b), back(c)};
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&through_cpu>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", made);
  m.impl("empty_strided", made_strided);
  m.impl("_copy_from", copied);
  m.impl("_copy_from_and_resize", copied_and_resized);
  m.impl("resize_", resized);
  m.impl("as_strided", strided);
  m.impl("view", viewed);
  m.impl("_reshape_alias", reshaped);
  m.impl("view_as_real", viewed_as_real);
  m.impl("_local_scalar_dense", read);
  m.impl("convolution_overrideable", convolved);
  m.impl("convolution_backward_overrideable", convolved_back);
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("begin", [] { at::RegisterPrivateUse1HooksInterface(new Hooks()); });
}
