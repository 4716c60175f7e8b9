package auth

import (
	"strings"
	"testing"

	"registry/server/registry"

	"golang.org/x/crypto/bcrypt"
)

// cheapHash is the argon2id hash of "cheap password", with the least work there is.
const cheapHash = "$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$xUA8VRcyIcfbX7xCnu1vc1nHkn3VE/OUgXenO/l0FSk"

func bcryptHash(t testing.TB, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}

func TestPasswords(t *testing.T) {
	hash, err := hashPassword("correct horse")
	if err != nil || !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Fatal(hash, err)
	}
	if again, err := hashPassword("correct horse"); err != nil || again == hash {
		t.Error("two hashes are the same", err)
	}
	long := strings.Repeat("L", maxBcrypt)
	for _, x := range []struct {
		hash, password string
		ok, weak       bool
	}{
		{hash, "correct horse", true, false}, {hash, "correct horsf", false, false}, {hash, "", false, false}, {hash, "correct horse\x00", false, false},
		{bcryptHash(t, "password"), "password", true, true}, {bcryptHash(t, "password"), "Password", false, true},
		{bcryptHash(t, long), long, true, true}, {bcryptHash(t, long), long + "WRONG", false, true},
		// bcrypt repeats a password with a NUL behind it until it has 72 bytes.
		{bcryptHash(t, "password"), "password\x00password", false, true},
	} {
		if ok, weak, err := checkPassword(x.hash, x.password); ok != x.ok || weak != x.weak || err != nil {
			t.Errorf("%q: %v %v %v", x.password, ok, weak, err)
		}
	}
	// The same text with its accents as characters of their own, and hashes of it by those who did not know that.
	const one, two = "caf\u00e9 cr\u00e8me", "cafe\u0301 cre\u0300me"
	for _, password := range []string{one, two} {
		hash, err := hashPassword(password)
		if err != nil {
			t.Fatal(err)
		}
		for _, typed := range []string{one, two} {
			if ok, weak, err := checkPassword(hash, typed); !ok || weak || err != nil {
				t.Errorf("%+q hashed, %+q typed: %v %v %v", password, typed, ok, weak, err)
			}
		}
	}
	if ok, weak, err := checkPassword(bcryptHash(t, two), two); !ok || !weak || err != nil {
		t.Error("a hash of the decomposed text:", ok, weak, err)
	}
	if ok, _, err := checkPassword(bcryptHash(t, two), two+"x"); ok || err != nil {
		t.Error("a wrong password is right:", err)
	}
	if ok, _, err := checkPassword(nobodysHash, ""); ok || err != nil {
		t.Error("nobody has a password", err)
	}
}

func TestNewPasswords(t *testing.T) {
	for password, ok := range map[string]bool{
		"1234567x": true, "ééééüüüü": true, strings.Repeat("x", maxPassword): true,
		"": false, "1234567": false, "ééééüüü": false, "e\u0301e\u0301e\u0301e\u0301": false, strings.Repeat("x", maxPassword+1): false, "1234\x005678": false, "1234\xff5678": false,
	} {
		if err := CheckNewPassword("alice", password); (err == nil) != ok {
			t.Errorf("%.20q: %v", password, err)
		}
	}
}

// A password is more than the name of its user, whether the user is new or not.
func TestPasswordsLikeTheName(t *testing.T) {
	w := newWorld(t)
	w.must(w.CreateUser(t.Context(), registry.Actor{}, "margarete", "passphrase", false, true))
	for password, ok := range map[string]bool{"margarete": false, "Margarete1": false, "xMARGARETE-2026": false, "margarete-and-two-cats": true, "margaret": true} {
		created := w.CreateUser(t.Context(), registry.Actor{}, "margarete", password, false, true) // Taken if it were right
		changed := w.SetPassword(t.Context(), registry.Actor{}, "margarete", password)
		if registry.RequestInvalid.Is(created) == ok || registry.RequestInvalid.Is(changed) == ok || ok && changed != nil {
			t.Errorf("%q: created: %v; changed: %v", password, created, changed)
		}
	}
}

// A stored hash that is not one is an error, not a panic and not a password.
func TestMalformedHashes(t *testing.T) {
	good, err := hashPassword("x")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(good, "m=19456,t=2,p=1$")
	for _, hash := range []string{
		"", "x", "$", "x$y$z", "$2a$", "$2b$10$abc", "$2y$99$" + strings.Repeat("a", 53), "$2x$10$" + strings.Repeat("a", 53), "$argon2id$", "$argon2i$v=19$m=8,t=1,p=1$" + rest,
		"$argon2id$v=19$m=19456,t=0,p=1$" + rest, "$argon2id$v=19$m=19456,t=2,p=0$" + rest, "$argon2id$v=19$m=19456,t=2,p=256$" + rest,
		"$argon2id$v=19$m=4294967295,t=2,p=1$" + rest, "$argon2id$v=19$m=-1,t=2,p=1$" + rest, "$argon2id$v=19$m=8,t=1000000,p=1$" + rest, "$argon2id$v=16$m=8,t=1,p=1$" + rest,
		"$argon2id$v=19$m=8,t=1,p=1$", "$argon2id$v=19$m=8,t=1,p=1$$", "$argon2id$v=19$m=8,t=1,p=1$AAAA$", "$argon2id$v=19$m=8,t=1,p=1$AAAA$AA", "$argon2id$v=19$m=8,t=1,p=1$!$" + rest,
		good + "$x", good + "=", good[:len(good)-1],
	} {
		if ok, _, err := checkPassword(hash, "x"); ok || err == nil {
			t.Errorf("%q: %v %v", hash, ok, err)
		}
	}
}

// Checking a password takes the same work whatever hash it is compared with, as long as some are of bcrypt.
func TestPasswordsTakeTheSameWork(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	dear := func(cost int) string {
		hash, err := bcrypt.GenerateFromPassword([]byte(cheapPassword), cost)
		w.must(err)
		return string(hash)
	}
	hashes := []string{nobodysHash, dear(4), dear(5), dear(7)}
	work := func(hash string, most int) (argon bool, steps int) {
		argon, costs := padding(hash, most)
		if isBcrypt(hash) {
			own, err := bcrypt.Cost([]byte(hash))
			w.must(err)
			costs = append(costs, own)
		} else {
			argon = true
		}
		for _, cost := range costs {
			steps += 1 << cost
		}
		return argon, steps
	}
	for _, hash := range hashes {
		if argon, steps := work(hash, 7); !argon || steps != 1<<7 {
			t.Errorf("%.12s: argon2id %v, %d rounds of bcrypt", hash, argon, steps)
		}
	}
	if argon, steps := work(nobodysHash, 0); !argon || steps != 0 {
		t.Error("without imported users:", argon, steps)
	}
	cost := func() int {
		t.Helper()
		cost, err := w.bcryptCost(t.Context())
		w.must(err)
		return cost
	}
	if got := cost(); got != 0 {
		t.Error(got)
	}
	w.must(w.createUser(t.Context(), somebody, "five", dear(5), false, true))
	w.must(w.createUser(t.Context(), somebody, "seven", dear(7), false, true))
	if got := cost(); got != 7 {
		t.Error(got)
	}
	if _, err := w.login("seven", cheapPassword, here); err != nil || cost() != 5 {
		t.Error("after the upgrade of the dearest:", err, cost())
	}
}
