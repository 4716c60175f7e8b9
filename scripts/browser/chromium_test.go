//go:build unix

package browser

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// patience is how long the browser may take for what it does at once.
const patience = 30 * time.Second

// chromium is a browser without a window, with a profile of its own. It is spoken to by the DevTools protocol, over two
// pipes: messages of JSON, each with a zero byte after it.
type chromium struct {
	t     *testing.T
	in    io.Writer
	mu    sync.Mutex
	last  int
	calls map[int]chan message
	tabs  map[string]*tab // by the id of their session
}

type message struct {
	ID        int                       `json:"id,omitempty"`
	SessionID string                    `json:"sessionId,omitempty"`
	Method    string                    `json:"method,omitempty"`
	Params    json.RawMessage           `json:"params,omitempty"`
	Result    json.RawMessage           `json:"result,omitempty"`
	Error     *struct{ Message string } `json:"error,omitempty"`
}

// names lead to this machine, whatever their DNS says.
const names = "MAP rebind.example 127.0.0.1, MAP evil.example 127.0.0.1, MAP ui.example 127.0.0.1, MAP other.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"

// startChromium starts the browser, or skips the test where there is none.
func startChromium(t *testing.T) *chromium {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil && os.Getenv("REGISTRY_BROWSER") == "" {
		t.Skip("chromium is not in PATH")
	}
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--headless=new", "--remote-debugging-pipe", "--user-data-dir=" + t.TempDir(), "--host-resolver-rules=" + names,
		"--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--proxy-server=direct://",
		"--disable-features=LocalNetworkAccessChecks"} // new browsers ask before a page reaches this machine; others do not
	if os.Getuid() == 0 {
		args = append(args, "--no-sandbox") // it refuses to start as root otherwise
	}
	fromTest, toBrowser, err := os.Pipe()
	must(t, err)
	fromBrowser, toTest, err := os.Pipe()
	must(t, err)
	ctx, kill := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, append(args, "about:blank")...)
	cmd.ExtraFiles = []*os.File{fromTest, toTest}
	must(t, cmd.Start())
	fromTest.Close()
	toTest.Close()
	c := &chromium{t: t, in: toBrowser, calls: map[int]chan message{}, tabs: map[string]*tab{}}
	ended := make(chan struct{})
	go func() { defer close(ended); c.listen(fromBrowser) }()
	t.Cleanup(func() {
		c.send("", "Browser.close", nil)
		select {
		case <-ended: // it has written its profile
		case <-time.After(patience):
		}
		kill()
		cmd.Wait()
		toBrowser.Close()
		fromBrowser.Close()
	})
	return c
}

func (c *chromium) listen(from io.Reader) {
	r := bufio.NewReader(from)
	for {
		text, err := r.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		if json.Unmarshal(text[:len(text)-1], &m) != nil {
			continue
		}
		c.mu.Lock()
		answer, tab := c.calls[m.ID], c.tabs[m.SessionID]
		delete(c.calls, m.ID)
		c.mu.Unlock()
		switch {
		case m.ID != 0 && answer != nil:
			answer <- m
		case m.Method != "" && tab != nil:
			tab.happened(m)
		}
	}
}

// send asks for something and returns where the answer comes.
func (c *chromium) send(session, method string, params any) (answer chan message, err error) {
	text, err := json.Marshal(params)
	if err != nil || params == nil {
		text = []byte("{}")
	}
	answer = make(chan message, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	c.calls[c.last] = answer
	text, err = json.Marshal(message{ID: c.last, SessionID: session, Method: method, Params: text})
	if err == nil {
		_, err = c.in.Write(append(text, 0))
	}
	return answer, err
}

// call asks for something and waits for the answer.
func (c *chromium) call(session, method string, params, result any) {
	c.t.Helper()
	answer, err := c.send(session, method, params)
	must(c.t, err)
	select {
	case m := <-answer:
		if m.Error != nil {
			c.t.Fatalf("%s: %s", method, m.Error.Message)
		}
		if result != nil {
			must(c.t, json.Unmarshal(m.Result, result))
		}
	case <-time.After(patience):
		c.t.Fatalf("%s: no answer", method)
	}
}

// tab is a page that is open.
type tab struct {
	c       *chromium
	session string
	events  chan message
	served  map[string]string // pages that come from the test instead of the network, by URL
}

func (c *chromium) open() *tab {
	c.t.Helper()
	var target struct{ TargetID string }
	c.call("", "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	c.call("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	t := &tab{c: c, session: attached.SessionID, events: make(chan message, 1000), served: map[string]string{}}
	c.mu.Lock()
	c.tabs[t.session] = t
	c.mu.Unlock()
	for _, domain := range []string{"Page", "Network", "Runtime"} {
		t.call(domain+".enable", nil, nil)
	}
	return t
}

func (t *tab) call(method string, params, result any) {
	t.c.t.Helper()
	t.c.call(t.session, method, params, result)
}

func (t *tab) happened(m message) {
	switch m.Method {
	case "Fetch.requestPaused":
		go t.fulfil(m.Params)
	case "Network.responseReceived", "Network.loadingFailed", "Page.loadEventFired":
		t.events <- m
	}
}

// serve answers for an address with a page of the test's, which so has the origin of that address: what the site of a name
// sends before it lets the name lead elsewhere.
func (t *tab) serve(url, page string) {
	t.c.t.Helper()
	t.served[url] = page
	t.call("Fetch.enable", map[string]any{"patterns": []map[string]string{{"urlPattern": url}}}, nil)
}

func (t *tab) fulfil(params json.RawMessage) {
	var paused struct {
		RequestID string
		Request   struct{ URL string }
	}
	if json.Unmarshal(params, &paused) != nil {
		return
	}
	page, ok := t.served[paused.Request.URL]
	if !ok {
		t.c.send(t.session, "Fetch.continueRequest", map[string]any{"requestId": paused.RequestID})
		return
	}
	t.c.send(t.session, "Fetch.fulfillRequest", map[string]any{"requestId": paused.RequestID, "responseCode": 200,
		"responseHeaders": []map[string]string{{"name": "Content-Type", "value": "text/html"}}, "body": base64.StdEncoding.EncodeToString([]byte(page))})
}

// visit opens an address and waits until it is shown, or saved, or failed. It returns the status of the page.
func (t *tab) visit(url string) (status int, saved bool) {
	t.c.t.Helper()
	for len(t.events) > 0 {
		<-t.events
	}
	var went struct {
		LoaderID   string
		ErrorText  string
		IsDownload bool
	}
	t.call("Page.navigate", map[string]any{"url": url}, &went)
	if went.ErrorText != "" && went.ErrorText != "net::ERR_ABORTED" {
		t.c.t.Fatalf("%s: %s", url, went.ErrorText)
	}
	saved = went.IsDownload || went.ErrorText == "net::ERR_ABORTED"
	status = t.document(func(id string) bool { return id == went.LoaderID || went.LoaderID == "" }, !saved)
	return status, saved
}

// document waits for the answer to a navigation, and until the page with its scripts is there. It returns the status.
func (t *tab) document(wanted func(loader string) bool, shown bool) (status int) {
	t.c.t.Helper()
	for deadline := time.After(patience); ; {
		select {
		case m := <-t.events:
			var e struct {
				LoaderID string
				Type     string
				Response struct{ Status int }
			}
			must(t.c.t, json.Unmarshal(m.Params, &e))
			if m.Method == "Network.responseReceived" && e.Type == "Document" && wanted(e.LoaderID) {
				if status = e.Response.Status; !shown {
					return status
				}
			}
			if m.Method == "Page.loadEventFired" && status != 0 {
				return status
			}
			if m.Method == "Network.loadingFailed" && !shown {
				return status
			}
		case <-deadline:
			t.c.t.Fatal("the page does not come")
		}
	}
}

// run evaluates an expression in the page, and waits for it if it is a promise. It returns the text of its value, or of
// what it throws.
func (t *tab) run(format string, args ...any) string {
	t.c.t.Helper()
	var result struct {
		Result struct{ Value any }
	}
	expression := fmt.Sprintf("(async () => { try { return String(await (%s)) } catch (e) { return 'threw ' + e } })()", fmt.Sprintf(format, args...))
	t.call("Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true}, &result)
	return fmt.Sprint(result.Result.Value)
}
