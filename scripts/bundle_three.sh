#!/bin/sh
# Rebuilds python/dapt/view/page/three.min.js: the parts of three.js that the viewer needs, in one
# file.
#   scripts/bundle_three.sh [version of three]
set -eu
version=${1:-0.187.0}
page=$(cd "$(dirname "$0")/../python/dapt/view/page" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm init --yes > /dev/null
npm install --silent --no-audit --no-fund "three@$version" esbuild@0.28.2
cat > three.js <<'EOF'
export {
  BufferAttribute, BufferGeometry, DepthTexture, Matrix4, Mesh, NearestFilter, NoBlending,
  PerspectiveCamera, Points, Scene, ShaderMaterial, UnsignedIntType, Vector2, Vector3,
  WebGLRenderTarget, WebGLRenderer,
} from "three";
export { OrbitControls } from "three/addons/controls/OrbitControls.js";
EOF
npx esbuild three.js --bundle --minify --format=iife --global-name=THREE --target=es2022 \
  --legal-comments=none --log-level=warning --outfile=bundle.js \
  --banner:js="// three.js $version, MIT license: three.LICENSE; made by scripts/bundle_three.sh"
cp bundle.js "$page/three.min.js"
cp node_modules/three/LICENSE "$page/three.LICENSE"
wc -c "$page/three.min.js"
