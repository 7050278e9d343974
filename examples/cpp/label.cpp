// label MODEL.pt2 CLOUD.xyz: prints the label of a point cloud, given as one "x y z" per line.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <fstream>
#include <iostream>
#include <vector>

namespace {

/// Reads points [1, N, 3] and scales them into the unit ball around their mean.
torch::Tensor read_cloud(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::vector<float> numbers;
  for (float number; file >> number;) numbers.push_back(number);
  if (numbers.empty() || numbers.size() % 3 != 0)
    throw std::runtime_error(path + " must contain three numbers per point");
  const torch::Tensor points = torch::tensor(numbers).view({-1, 3});
  const torch::Tensor centered = points - points.mean(0);
  return (centered / centered.norm(2, 1).max()).unsqueeze(0);
}

}  // namespace

int main(int count, char** words) {
  if (count != 3) {
    std::cerr << "usage: label MODEL.pt2 CLOUD.xyz\n";
    return 2;
  }
  try {
    torch::inductor::AOTIModelPackageLoader model(words[1]);
    const torch::Tensor logits = model.run({read_cloud(words[2])}).at(0)[0];
    const torch::Tensor chances = logits.softmax(0);
    const auto best = chances.argmax().item<int64_t>();
    std::cout << "label " << best << " of " << model.get_metadata().at("labels") << ", probability "
              << chances[best].item<float>() << "\nlogits";
    for (int64_t i = 0; i < logits.numel(); ++i) std::cout << ' ' << logits[i].item<float>();
    std::cout << '\n';
  } catch (const std::exception& error) {
    std::cerr << "label: " << error.what() << '\n';
    return 1;
  }
}
