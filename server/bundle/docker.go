package bundle

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"runtime"
	"strings"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	dockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig       = "application/vnd.docker.container.image.v1+json"
)

// dockerImage is an entry of manifest.json, which docker save writes and docker load reads.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// dockerManifest makes manifest.json of the images of a plan, with the blobs of the layout as their files. Of an index it
// takes the image for the platform asked for or for Linux on this processor. What is no image is left out.
func (e *exporter) dockerManifest() ([]byte, error) {
	images := []dockerImage{}
	for _, line := range e.plan.index {
		if line.tag == "" {
			continue
		}
		image, ok, err := e.dockerImage(line)
		if err != nil {
			return nil, err
		}
		if ok {
			image.RepoTags = []string{fmt.Sprintf("%s:%s", line.repo, line.tag)}
			images = append(images, image)
		}
	}
	return json.Marshal(images)
}

func (e *exporter) dockerImage(line entry) (image dockerImage, ok bool, err error) {
	d := line.Digest
	if isIndex(line.MediaType) {
		p := planner{opt: e.opt}
		if len(p.opt.Platforms) == 0 {
			p.opt.Platforms = []Platform{{OS: "linux", Architecture: runtime.GOARCH}}
		}
		content, err := e.plan.kept.read(d)
		if err != nil {
			return image, false, err
		}
		if d, err = p.only(registry.Manifest{Digest: d, MediaType: line.MediaType, Content: content}); err != nil || d == "" {
			return image, false, err
		}
	}
	content, err := e.plan.kept.read(d)
	if err != nil {
		return image, false, err
	}
	var parsed v1.Manifest
	if err := json.Unmarshal(content, &parsed); err != nil {
		return image, false, err
	}
	image.Config = blobName(parsed.Config.Digest)
	for _, layer := range parsed.Layers {
		image.Layers = append(image.Layers, blobName(layer.Digest))
		ok = strings.Contains(layer.MediaType, "tar") && e.plan.blobs[layer.Digest].repo != ""
		if !ok {
			return image, false, nil
		}
	}
	return image, parsed.Config.MediaType == v1.MediaTypeImageConfig || parsed.Config.MediaType == dockerConfig, nil
}

// imageManifest makes the manifest of an image that came without one. The same image makes the same bytes.
func imageManifest(config v1.Descriptor, layers []v1.Descriptor) ([]byte, error) {
	return json.Marshal(v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: config, Layers: layers})
}

// docker places the images of an archive of docker save or one like it. It has no manifests, so they are made here; the
// layers are stored as they are in the archive. What vouches for them are the digests in the configuration.
func (i *importer) docker() error {
	var images []dockerImage
	if _, err := i.from.decode(dockerFile, &images); err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, image := range images {
		for _, name := range image.Layers {
			wanted[i.from.resolve(name)] = true
		}
	}
	layers, err := i.layers(wanted)
	if err != nil {
		return err
	}
	for _, image := range images {
		claims, err := i.dockerClaims(image, layers)
		if err == nil {
			err = i.to.claims(claims)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// resolve follows a link to the layer it means.
func (a *archive) resolve(name string) string {
	if target, ok := a.links[name]; ok {
		return target
	}
	return name
}

// layers reads the layers of a docker archive, to learn their digests.
func (i *importer) layers(wanted map[string]bool) (map[string]v1.Descriptor, error) {
	found := map[string]v1.Descriptor{}
	err := i.from.walk(i.ctx, func(m member) error {
		name := cleanName(m)
		if !wanted[name] || m.link != "" {
			return nil
		}
		body := bufio.NewReader(m.body)
		magic, _ := body.Peek(4)
		mediaType := layerType(magic) // now: the buffer is used again
		digester := digest.SHA256.Digester()
		n, err := io.Copy(digester.Hash(), body)
		if err != nil {
			return invalid("%s: %w", name, err)
		}
		d := digester.Digest()
		if before, twice := found[name]; twice && before.Digest != d {
			return invalid("%.200q is there twice, with other content", name)
		}
		found[name] = v1.Descriptor{MediaType: mediaType, Digest: d, Size: n}
		i.to.layers[d] = name
		return nil
	})
	return found, err
}

func layerType(magic []byte) string {
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return v1.MediaTypeImageLayerGzip
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return v1.MediaTypeImageLayerZstd
	}
	return v1.MediaTypeImageLayer
}

// dockerClaims makes the manifest of an image and says where it belongs.
func (i *importer) dockerClaims(image dockerImage, found map[string]v1.Descriptor) ([]claim, error) {
	config, err := i.from.read(image.Config)
	if err != nil {
		return nil, err
	}
	if config == nil {
		return nil, invalid("the configuration %.200q is missing", image.Config)
	}
	d := digest.FromBytes(config)
	named := strings.TrimPrefix(strings.TrimSuffix(path.Base(image.Config), ".json"), "sha256:")
	if named != d.Encoded() && image.Config != "config.json" {
		return nil, invalid("the bytes of %s do not have this digest", image.Config)
	}
	i.to.layers[d] = image.Config
	layers, err := i.dockerLayers(image, config, found)
	if err != nil {
		return nil, err
	}
	text, err := imageManifest(v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: d, Size: int64(len(config))}, layers)
	if err != nil {
		return nil, err
	}
	made := Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromBytes(text), Size: int64(len(text))}
	i.to.made[made.Digest] = text
	return i.opt.Names.dockerClaims(made, image.RepoTags)
}

// dockerLayers returns the layers of an image, which are those its configuration names.
func (i *importer) dockerLayers(image dockerImage, config []byte, found map[string]v1.Descriptor) ([]v1.Descriptor, error) {
	var parsed v1.Image
	if err := json.Unmarshal(config, &parsed); err != nil {
		return nil, invalid("%s: %w", image.Config, err)
	}
	diffs := parsed.RootFS.DiffIDs
	if len(diffs) != len(image.Layers) {
		return nil, invalid("%s names %d layers, %s has %d", image.Config, len(diffs), dockerFile, len(image.Layers))
	}
	layers := []v1.Descriptor{}
	for n, name := range image.Layers {
		layer, ok := found[i.from.resolve(name)]
		if !ok {
			return nil, invalid("the layer %.200q is missing", name)
		}
		packed, isPacked := strings.CutSuffix(i.from.resolve(name), ".tar.gz")
		if layer.MediaType == v1.MediaTypeImageLayer && layer.Digest != diffs[n] || isPacked && path.Base(packed) != layer.Digest.Encoded() {
			return nil, invalid("the bytes of %s do not have their digest", name)
		}
		layers = append(layers, layer)
	}
	return layers, nil
}

func (n Names) dockerClaims(made Descriptor, names []string) (list []claim, err error) {
	if len(names) == 0 && n.repo0 == "" {
		return nil, ErrNameless
	}
	if len(names) == 0 {
		list = []claim{{Descriptor: made, repo: n.repo0, tag: n.tag0}}
	}
	for _, name := range names {
		c := claim{Descriptor: made}
		if c.repo, c.tag, err = n.reference(name); err != nil {
			return nil, invalid("%s: %w", dockerFile, err)
		}
		list = append(list, c)
	}
	return list, nil
}
