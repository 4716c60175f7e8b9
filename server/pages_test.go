package server

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"registry/db"
	"registry/server/registry"
)

// Every list of the management API has pages, and together they are the whole.
func TestManagementListsHavePages(t *testing.T) {
	w := newWorld(t)
	admin := basic("admin", "the admin's password")
	const many = 12
	for i := range many {
		name := fmt.Sprintf("user%02d", i)
		w.user(name)
		w.grant(name, "pull:team/x*")
		w.grant("@team", fmt.Sprintf("pull:admin/%02d", i))
		w.must(w.auth.AddMember(t.Context(), nobody, memberOf(fmt.Sprint("group", i%3), name)))
		w.apiToken("admin", fmt.Sprintf("token %02d", i), "pull:**", 0)
		w.must(w.reg.AddImmutableRule(t.Context(), registry.ImmutableRule{Repository: fmt.Sprintf("r%02d", i/2), Tag: fmt.Sprint("v", i%2)}))
		w.must(w.db.Update(t.Context(), func(tx *db.Tx) error {
			return tx.CreateRefreshToken(db.RefreshToken{ID: fmt.Sprintf("ID%02d", i), User: "admin"}, tx.Now.AddDate(-1, 0, 0), 100)
		}))
	}
	for list, want := range map[string]int{"users": many + 1, "grants": 2 * many, "groups": many, "tokens": many, "refresh-tokens": many, "immutable": many} {
		seen := map[string]bool{}
		pages := 0
		for next := "/api/v1/" + list + "?n=5"; next != ""; pages++ {
			got := w.ask("GET", next, "", admin)
			var body map[string][]json.RawMessage
			if err := json.Unmarshal(got.Body.Bytes(), &body); got.Code != 200 || err != nil || len(body) != 1 {
				t.Fatal(list, got.Code, got.Body)
			}
			for _, items := range body {
				if len(items) > 5 {
					t.Errorf("%s: a page of %d", list, len(items))
				}
				for _, item := range items {
					var group struct {
						Name    string
						Members []string
					}
					json.Unmarshal(item, &group)
					for _, m := range group.Members {
						seen[group.Name+" "+m] = true
					}
					if group.Members == nil {
						seen[string(item)] = true
					}
				}
			}
			next, _, _ = strings.Cut(strings.TrimPrefix(got.Header().Get("Link"), "<"), ">")
		}
		if len(seen) != want || pages != (want+4)/5 {
			t.Errorf("%s: %d entries on %d pages, want %d", list, len(seen), pages, want)
		}
	}
	user := basic("user03", password("user03"))
	if got := w.ask("GET", "/api/v1/grants", "", user); strings.Count(got.Body.String(), "grantee") != 1 || !strings.Contains(got.Body.String(), `"grantee":"user03"`) {
		t.Error("a user sees", got.Body)
	}
	w.grant("user04", "pull:user03/a")
	if got := w.ask("GET", "/api/v1/grants?"+url.Values{"last": {"user03 "}}.Encode(), "", user); strings.Count(got.Body.String(), "grantee") != 2 {
		t.Error("a user sees", got.Body)
	}
}
