// Decoded pixels as edgeline gives them to a model: float32 [height, width, 3], to standard output.
//
//     g++ -std=c++17 -O2 -ffp-contract=off -o preprocess preprocess.cc
//     djpeg -pnm photo.jpg | ./preprocess 96 96 1024 > pixels.raw     # height, width, max_side
//
// Reads a binary PPM: 8-bit RGB, upright. The steps are those of docs/device.md, "From other
// languages", and the result is to the last bit what the Python package computes: but for
// -ffp-contract=off, which keeps a processor from fusing a product and a sum into one rounding.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

constexpr int kLobes = 3;  // of Lanczos' filter
constexpr int kBits = 22;  // behind the point, of its integer weights
constexpr long kMostPixels = 100'000'000;

struct Image {
  int height, width;
  std::vector<uint8_t> data;  // [height, width, 3]
};

double Sinc(double x) { return x == 0 ? 1 : std::sin(x * M_PI) / (x * M_PI); }

double WindowedSinc(double x) {
  return x < -kLobes || x >= kLobes ? 0 : Sinc(x) * Sinc(x / kLobes);
}

// The inputs that an output is made of along one axis, and their weights.
struct Taps {
  int first;
  std::vector<int32_t> weights;
};

std::vector<Taps> LanczosTaps(int size, int new_size) {
  const double scale = static_cast<double>(size) / new_size;
  const double filter_scale = std::max(1.0, scale), reach = kLobes * filter_scale;
  std::vector<Taps> all(new_size);
  for (int to = 0; to < new_size; ++to) {
    const double centre = (to + 0.5) * scale;
    const int first = std::max(0, static_cast<int>(centre - reach + 0.5));
    const int end = std::min(size, static_cast<int>(centre + reach + 0.5));
    std::vector<double> weights;
    double sum = 0;
    for (int from = first; from < end; ++from) {
      weights.push_back(WindowedSinc((from - centre + 0.5) * (1 / filter_scale)));
      sum += weights.back();
    }
    all[to].first = first;
    for (double weight : weights) {
      const double whole = weight / sum * (1 << kBits);
      all[to].weights.push_back(static_cast<int32_t>(whole + (whole < 0 ? -0.5 : 0.5)));
    }
  }
  return all;
}

uint8_t Clipped(int32_t total) { return std::clamp(total >> kBits, 0, 255); }

Image Across(const Image& image, int width) {
  if (width == image.width) return image;
  Image found{image.height, width, std::vector<uint8_t>(size_t{3} * image.height * width)};
  const auto taps = LanczosTaps(image.width, width);
  for (size_t y = 0; y < static_cast<size_t>(image.height); ++y)
    for (size_t x = 0; x < taps.size(); ++x)
      for (int channel = 0; channel < 3; ++channel) {
        int32_t total = 1 << (kBits - 1);
        for (size_t i = 0; i < taps[x].weights.size(); ++i)
          total += image.data[(y * image.width + taps[x].first + i) * 3 + channel] *
                   taps[x].weights[i];
        found.data[(y * width + x) * 3 + channel] = Clipped(total);
      }
  return found;
}

Image Down(const Image& image, int height) {
  if (height == image.height) return image;
  Image found{height, image.width, std::vector<uint8_t>(size_t{3} * height * image.width)};
  const auto taps = LanczosTaps(image.height, height);
  const size_t line = size_t{3} * image.width;
  for (size_t y = 0; y < taps.size(); ++y)
    for (size_t x = 0; x < line; ++x) {
      int32_t total = 1 << (kBits - 1);
      for (size_t i = 0; i < taps[y].weights.size(); ++i)
        total += image.data[(taps[y].first + i) * line + x] * taps[y].weights[i];
      found.data[y * line + x] = Clipped(total);
    }
  return found;
}

// Scales an image down until its longer side is at most `max_side` pixels.
Image LimitSide(const Image& image, int max_side) {
  const double longer = std::max(image.height, image.width);
  if (longer <= max_side) return image;
  // Halves are rounded to even.
  const auto limited = [&](double side) {
    return std::max(1, static_cast<int>(std::nearbyint(side * max_side / longer)));
  };
  return Down(Across(image, limited(image.width)), limited(image.height));
}

// Which two inputs an output lies between along one axis, and how far along.
struct Between {
  int before, after;
  float weight;
};

std::vector<Between> Neighbours(int size, int new_size) {
  const float scale = static_cast<float>(size) / static_cast<float>(new_size);
  std::vector<Between> all;
  for (int i = 0; i < new_size; ++i) {
    const float position = (static_cast<float>(i) + 0.5f) * scale - 0.5f;
    const float floor = std::floor(position);
    all.push_back({std::max(static_cast<int>(floor), 0),
                   std::min(static_cast<int>(std::ceil(position)), size - 1), position - floor});
  }
  return all;
}

// Bilinear with half-pixel centres and without antialiasing, in float32, to [0, 1].
std::vector<float> Resize(const Image& image, int height, int width) {
  const auto rows = Neighbours(image.height, height), columns = Neighbours(image.width, width);
  const auto blend = [](float first, float second, float weight) {
    return first + (second - first) * weight;
  };
  std::vector<float> pixels;
  for (const Between& row : rows)
    for (const Between& column : columns)
      for (int channel = 0; channel < 3; ++channel) {
        const auto value = [&](size_t y, size_t x) {
          return static_cast<float>(image.data[(y * image.width + x) * 3 + channel]);
        };
        const float upper =
            blend(value(row.before, column.before), value(row.before, column.after), column.weight);
        const float lower =
            blend(value(row.after, column.before), value(row.after, column.after), column.weight);
        pixels.push_back(blend(upper, lower, row.weight) / 255.0f);
      }
  return pixels;
}

[[noreturn]] void Fail(const std::string& problem) {
  std::fprintf(stderr, "%s\n", problem.c_str());
  std::exit(1);
}

Image ReadPpm(std::FILE* file) {
  int width = 0, height = 0, most = 0;
  if (std::fscanf(file, "P6 %d %d %d", &width, &height, &most) != 3 || std::fgetc(file) == EOF ||
      width < 1 || height < 1 || most != 255)
    Fail("expected a binary PPM (P6) of 8 bits a sample on standard input");
  if (static_cast<long>(width) * height > kMostPixels) Fail("the image is too large");
  Image image{height, width, std::vector<uint8_t>(size_t{3} * height * width)};
  if (std::fread(image.data.data(), 1, image.data.size(), file) != image.data.size())
    Fail("the image ends too early");
  return image;
}

int Pixels(const char* text) {
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (*end != '\0' || value < 1 || value > 1 << 16)
    Fail(std::string("expected a number of pixels, got ") + text);
  return static_cast<int>(value);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) {
    std::fprintf(stderr, "usage: preprocess HEIGHT WIDTH MAX_SIDE < image.ppm > pixels.raw\n");
    return 2;
  }
  const int height = Pixels(arguments[1]), width = Pixels(arguments[2]);
  const Image image = LimitSide(ReadPpm(stdin), Pixels(arguments[3]));
  const std::vector<float> pixels = Resize(image, height, width);
  if (std::fwrite(pixels.data(), sizeof(float), pixels.size(), stdout) != pixels.size())
    Fail("the pixels cannot be written");
}
