Gem::Specification.new do |spec|
  spec.name = "lmms_eval_grpc"
  spec.version = "0.1.0"
  spec.summary = "Client of the lmms-eval-grpc evaluation service: typed calls, and watches that resume."
  spec.license = "Apache-2.0"
  spec.authors = ["lmms-eval-grpc"]
  spec.required_ruby_version = ">= 3.1"
  spec.files = Dir["lib/**/*.rb", "gen/**/*.rb", "bin/*", "README.md"]
  spec.require_paths = %w[lib gen]
  spec.bindir = "bin"
  spec.executables = ["submit-and-watch"]
  spec.add_dependency "googleapis-common-protos-types", ">= 1.4"
  spec.add_dependency "google-protobuf", ">= 3.21"
  spec.add_dependency "grpc", ">= 1.51"
end
