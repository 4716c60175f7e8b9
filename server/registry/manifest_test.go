package registry

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

var someDigest = digest.FromString("content")

func desc(mediaType string, size any) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%v}`, mediaType, someDigest, size)
}

func image(more string) string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]%s}`,
		v1.MediaTypeImageManifest, desc(v1.MediaTypeImageConfig, 7), desc(v1.MediaTypeImageLayerGzip, 7), more)
}

func TestParseManifest(t *testing.T) {
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[%s]}`, desc(v1.MediaTypeImageManifest, 7))
	for name, c := range map[string]struct {
		contentType, content string
		refused              string // "" if it is accepted
		blobs, children      int
		artifactType         string
	}{
		"image":                    {v1.MediaTypeImageManifest, image(""), "", 2, 0, v1.MediaTypeImageConfig},
		"no content type":          {"", image(""), "", 2, 0, v1.MediaTypeImageConfig},
		"artifact":                 {v1.MediaTypeImageManifest, image(`,"artifactType":"a/b"`), "", 2, 0, "a/b"},
		"index":                    {v1.MediaTypeImageIndex, index, "", 0, 1, ""},
		"index, no type at all":    {"", index, "no media type", 0, 0, ""},
		"docker":                   {dockerManifest, strings.Replace(image(""), v1.MediaTypeImageManifest, dockerManifest, 1), "", 2, 0, v1.MediaTypeImageConfig},
		"unknown type":             {"application/vnd.x+json", `{"x":1}`, "", 0, 0, ""},
		"old artifact":             {"application/vnd.oci.artifact.manifest.v1+json", fmt.Sprintf(`{"blobs":[%s],"artifactType":"a/b"}`, desc("x/y", 7)), "", 1, 0, "a/b"},
		"null subject":             {v1.MediaTypeImageManifest, image(`,"subject":null`), "", 2, 0, v1.MediaTypeImageConfig},
		"type says index":          {v1.MediaTypeImageIndex, image(""), "Content-Type is", 0, 0, ""},
		"image and index":          {v1.MediaTypeImageManifest, image(`,"manifests":[]`), "both", 0, 0, ""},
		"index in image":           {v1.MediaTypeImageIndex, `{"schemaVersion":2,"layers":[],"manifests":[]}`, "both", 0, 0, ""},
		"member twice":             {v1.MediaTypeImageManifest, image(`,"layers":[]`), "given twice", 0, 0, ""},
		"member in another case":   {v1.MediaTypeImageManifest, image(`,"Layers":[]`), "case only", 0, 0, ""},
		"descriptor member twice":  {v1.MediaTypeImageManifest, image(fmt.Sprintf(`,"subject":{"mediaType":"a/b","digest":%q,"digest":%q,"size":1}`, someDigest, someDigest)), "given twice", 0, 0, ""},
		"garbage after":            {v1.MediaTypeImageManifest, image("") + "x", "not a JSON value", 0, 0, ""},
		"not UTF-8":                {v1.MediaTypeImageManifest, image(",\"x\":\"\xff\""), "not UTF-8", 0, 0, ""},
		"array":                    {v1.MediaTypeImageManifest, `[]`, "not a JSON object", 0, 0, ""},
		"null":                     {v1.MediaTypeImageManifest, `null`, "not a JSON object", 0, 0, ""},
		"empty object":             {v1.MediaTypeImageManifest, `{}`, "schemaVersion", 0, 0, ""},
		"empty":                    {v1.MediaTypeImageManifest, ``, "not a JSON value", 0, 0, ""},
		"deep":                     {v1.MediaTypeImageManifest, strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000), "nested", 0, 0, ""},
		"many members":             {v1.MediaTypeImageManifest, image(strings.Repeat(`,"":0`, maxMembers)), "members", 0, 0, ""},
		"many references":          {"application/vnd.x+json", `{"layers":[` + many(maxReferences) + `],"blobs":[` + many(2) + `]}`, "references", 0, 0, ""},
		"schema 1":                 {dockerSchema1Signed, `{"schemaVersion":1}`, "schema 1", 0, 0, ""},
		"schema 1 in disguise":     {"application/json", `{"schemaVersion":1,"fsLayers":[]}`, "schema 1", 0, 0, ""},
		"schemaVersion overflows":  {v1.MediaTypeImageManifest, `{"schemaVersion":1e99,"config":{},"layers":[]}`, "integer", 0, 0, ""},
		"null layer":               {v1.MediaTypeImageManifest, strings.Replace(image(""), `"layers":[`, `"layers":[null,`, 1), "layers[0]", 0, 0, ""},
		"layers null":              {v1.MediaTypeImageManifest, fmt.Sprintf(`{"schemaVersion":2,"config":%s,"layers":null}`, desc("a/b", 1)), "", 1, 0, "a/b"},
		"layers missing":           {dockerManifest, fmt.Sprintf(`{"schemaVersion":2,"config":%s}`, desc("a/b", 1)), "", 1, 0, "a/b"},
		"layers a string":          {v1.MediaTypeImageManifest, fmt.Sprintf(`{"schemaVersion":2,"config":%s,"layers":"x"}`, desc("a/b", 1)), "not an array", 0, 0, ""},
		"manifests null":           {v1.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":null}`, "", 0, 0, ""},
		"manifests missing":        {dockerManifestList, `{"schemaVersion":2}`, "", 0, 0, ""},
		"index, image parts null":  {v1.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":[],"config":null,"layers":null}`, "", 0, 0, ""},
		"index with layers":        {v1.MediaTypeImageIndex, `{"schemaVersion":2,"layers":[]}`, "media type", 0, 0, ""},
		"image, manifests null":    {v1.MediaTypeImageManifest, image(`,"manifests":null,"blobs":null`), "", 2, 0, v1.MediaTypeImageConfig},
		"image, config null":       {v1.MediaTypeImageManifest, `{"schemaVersion":2,"config":null,"layers":[]}`, "needs config", 0, 0, ""},
		"texts null":               {v1.MediaTypeImageManifest, strings.Replace(image(`,"artifactType":null,"annotations":null,"subject":null`), fmt.Sprintf("%q", v1.MediaTypeImageManifest), "null", 1), "", 2, 0, v1.MediaTypeImageConfig},
		"null and a value":         {v1.MediaTypeImageManifest, image(`,"manifests":null,"manifests":[]`), "given twice", 0, 0, ""},
		"null descriptor members":  {v1.MediaTypeImageIndex, fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":null,"artifactType":null,"digest":%q,"size":1}]}`, someDigest), "", 0, 1, ""},
		"null digest":              {v1.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":[{"digest":null,"size":1}]}`, "digest", 0, 0, ""},
		"type in capitals":         {strings.ToUpper(v1.MediaTypeImageManifest), image(""), "", 2, 0, v1.MediaTypeImageConfig},
		"own type in capitals":     {dockerManifestList, `{"schemaVersion":2,"mediaType":"` + strings.ToUpper(dockerManifestList) + `","manifests":[]}`, "", 0, 0, ""},
		"capitals do not hide it":  {strings.ToUpper(v1.MediaTypeImageIndex), image(""), "Content-Type is", 0, 0, ""},
		"schema 1 in capitals":     {strings.ToUpper(dockerSchema1), `{}`, "schema 1", 0, 0, ""},
		"negative size":            {v1.MediaTypeImageManifest, strings.Replace(image(""), `"size":7`, `"size":-7`, 1), "negative", 0, 0, ""},
		"fractional size":          {v1.MediaTypeImageManifest, strings.Replace(image(""), `"size":7`, `"size":7.5`, 1), "integer", 0, 0, ""},
		"size overflows":           {v1.MediaTypeImageManifest, strings.Replace(image(""), `"size":7`, `"size":9223372036854775808`, 1), "integer", 0, 0, ""},
		"digest is a path":         {v1.MediaTypeImageManifest, strings.Replace(image(""), someDigest.String(), "../../etc/passwd", 1), "digest", 0, 0, ""},
		"annotation not a string":  {v1.MediaTypeImageManifest, image(`,"annotations":{"a":1}`), "annotations", 0, 0, ""},
		"artifactType is a number": {v1.MediaTypeImageManifest, image(`,"artifactType":1`), "not a string", 0, 0, ""},
		"header injection":         {"a/b\r\nX: y", `{}`, "not a media type", 0, 0, ""},
		"too many":                 {v1.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":[1` + strings.Repeat(",1", maxEntries) + `]}`, "more than", 0, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			doc, err := parseManifest(c.contentType, []byte(c.content))
			if c.refused != "" {
				if !ManifestInvalid.Is(err) || !strings.Contains(err.Error(), c.refused) {
					t.Fatalf("%v, want it to say %q", err, c.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(doc.blobs) != c.blobs || len(doc.children) != c.children || doc.artifactType != c.artifactType {
				t.Errorf("%d blobs, %d children, artifact type %q", len(doc.blobs), len(doc.children), doc.artifactType)
			}
		})
	}
}

// many are n descriptors.
func many(n int) string { return strings.Repeat(desc("a/b", 1)+",", n-1) + desc("a/b", 1) }

func TestForeignLayersAreOptional(t *testing.T) {
	for _, mediaType := range []string{dockerForeignLayer, ociNonDistributable + "tar+gzip", strings.ToUpper(dockerForeignLayer)} {
		doc, err := parseManifest("", []byte(strings.Replace(image(""), v1.MediaTypeImageLayerGzip, mediaType, 1)))
		if err != nil || doc.blobs[0].optional || !doc.blobs[1].optional {
			t.Errorf("%s: %v %+v", mediaType, err, doc)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	for _, s := range []string{image(""), image(`,"annotations":{"a":"b"},"subject":` + desc("a/b", 3)), `{"schemaVersion":2,"manifests":[]}`, `{}`, image(` , "a\u0062" : [ {} , [] , "\\" , 1 ] , "subject" : null `), `{"schemaVersion":2,"manifests":null}`, `[]`, `null`, "\"", image(`,"Layers":[]`)} {
		f.Add(v1.MediaTypeImageManifest, []byte(s))
		f.Add("", []byte(s))
	}
	f.Fuzz(func(t *testing.T, contentType string, content []byte) {
		doc, err := parseManifest(contentType, content)
		if err != nil {
			if !ManifestInvalid.Is(err) {
				t.Errorf("%v is not ManifestInvalid", err)
			}
			return
		}
		// What was accepted must read the same to a lenient parser.
		var lenient struct {
			MediaType string          `json:"mediaType"`
			Layers    []v1.Descriptor `json:"layers"`
			Subject   *v1.Descriptor  `json:"subject"`
		}
		if !isImage(doc.mediaType) {
			return
		}
		if err := json.Unmarshal(content, &lenient); err != nil {
			t.Fatalf("accepted, but %v", err)
		}
		if lenient.MediaType != "" && !strings.EqualFold(lenient.MediaType, doc.mediaType) || len(lenient.Layers) != len(doc.blobs)-1 {
			t.Errorf("lenient reader sees %q and %d layers, strict %q and %d", lenient.MediaType, len(lenient.Layers), doc.mediaType, len(doc.blobs)-1)
		}
		if lenient.Subject != nil && lenient.Subject.Digest != doc.subject {
			t.Errorf("subject %q or %q", lenient.Subject.Digest, doc.subject)
		}
		if d, err := doc.referrer(someDigest, 1); err != nil || !json.Valid(d) {
			t.Errorf("descriptor %s: %v", d, err)
		}
	})
}

func TestReferrersTag(t *testing.T) {
	d256, d512 := digest.SHA256.FromString("x"), digest.SHA512.FromString("x")
	if got, want := string(referrersTag(d256)), "sha256-"+d256.Encoded(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := string(referrersTag(d512)), "sha512-"+d512.Encoded()[:64]; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
