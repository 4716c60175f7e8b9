package auth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/text/unicode/norm"
)

// Passwords are hashed with argon2id (RFC 9106), with the parameters that OWASP's Password Storage Cheat Sheet gives for
// little memory: a small machine hashes them, several at a time.
const (
	argonMemory  = 19 << 10 // KiB
	argonTime    = 2
	argonThreads = 1
	saltSize     = 16
	keySize      = 32
)

const (
	minPassword = 8    // characters
	maxPassword = 1024 // bytes
	maxBcrypt   = 72   // bytes; what is behind them bcrypt does not see
)

// common are passwords that guessers try first, without what they put around them: digits, signs and other cases.
var common = []string{"password", "passwort", "passw0rd", "qwerty", "qwertyui", "qwertyuiop", "asdfghjk", "letmein", "welcome", "iloveyou", "sunshine", "princess", "football", "baseball",
	"superman", "trustno", "changeme", "changeit", "default", "secret", "harbor", "registry", "docker", "admin", "administrator", "root", "test", "testtest", "abc", "abcd", "abcdefgh"}

const maxObvious = 16 // bytes of one character over and over that guessers try

// isCommon says whether a password is one of these, or one character or a row of digits.
func isCommon(password string) bool {
	letters := strings.ToLower(strings.TrimFunc(password, func(r rune) bool { return r < utf8.RuneSelf && !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z') }))
	if len(password) <= len(letters)+6 && slices.Contains(common, letters) {
		return true
	}
	first, _ := utf8.DecodeRuneInString(password)
	if len(password) <= maxObvious && strings.Trim(password, string(first)) == "" {
		return true
	}
	return strings.Contains("0123456789012345678909876543210987654321", password) || slices.Contains([]string{"11223344", "12341234", "12344321", "1q2w3e4r", "1qaz2wsx", "q1w2e3r4"}, password)
}

// CheckNewPassword says what is wrong with a new password of a user.
func CheckNewPassword(user, password string) error {
	switch {
	case !utf8.ValidString(password) || strings.ContainsRune(password, 0):
		return errors.New("a password is text in UTF-8")
	case utf8.RuneCountInString(composed(password)) < minPassword:
		return fmt.Errorf("a password has at least %d characters", minPassword)
	case len(password) > maxPassword:
		return fmt.Errorf("a password has at most %d bytes", maxPassword)
	case isCommon(password):
		return errors.New("the password is one of those that are guessed first")
	case len(password) < 2*len(user) && strings.Contains(strings.ToLower(password), user):
		return errors.New("a password is more than the name of its user")
	}
	return nil
}

// composed is a password as it is hashed. What a person types is sent with accents as characters of their own by some
// systems and not by others (RFC 8265 section 4.2.2).
func composed(password string) string { return norm.NFC.String(password) }

var hashText = base64.RawStdEncoding

// hashPassword returns the hash in the text form of the Password Hashing Competition.
func hashPassword(password string) (string, error) {
	salt := make([]byte, saltSize)
	if _, err := rand.Read(salt); err != nil {
		return "", err
	}
	key := argon2.IDKey([]byte(composed(password)), salt, argonTime, argonMemory, argonThreads, keySize)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads,
		hashText.EncodeToString(salt), hashText.EncodeToString(key)), nil
}

// nobodysHash is what the password of somebody who does not exist is compared with.
var nobodysHash = fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads,
	hashText.EncodeToString(make([]byte, saltSize)), hashText.EncodeToString(make([]byte, keySize)))

// checkPassword says whether a password has a hash, and whether that is weaker than those made now. One that was made of
// the password as it came, by another program or an earlier version, is.
func checkPassword(hash, password string) (ok, weak bool, err error) {
	ok, weak, err = compareHash(hash, composed(password))
	if err != nil || ok || composed(password) == password {
		return ok, weak, err
	}
	ok, _, err = compareHash(hash, password)
	return ok, true, err
}

func compareHash(hash, password string) (ok, weak bool, err error) {
	if isBcrypt(hash) {
		err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(password[:min(len(password), maxBcrypt)]))
		if errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
			return false, true, nil
		}
		return err == nil && seenWhole(password), true, err
	}
	var version int
	var memory, time uint32
	var threads uint8
	var rest string
	if _, err := fmt.Sscanf(hash, "$argon2id$v=%d$m=%d,t=%d,p=%d$%s", &version, &memory, &time, &threads, &rest); err != nil {
		return false, false, errors.New("a stored password hash is of no known form")
	}
	saltText, keyText, _ := strings.Cut(rest, "$")
	salt, saltErr := hashText.DecodeString(saltText)
	key, keyErr := hashText.DecodeString(keyText)
	const most = 1 << 20 // KiB
	if saltErr != nil || keyErr != nil || len(key) < keySize || version != argon2.Version || memory > most || time == 0 || time > 64 || threads == 0 {
		return false, false, errors.New("a stored password hash is of no known form")
	}
	got := argon2.IDKey([]byte(password), salt, time, memory, threads, uint32(len(key)))
	weak = memory < argonMemory || time < argonTime
	return subtle.ConstantTimeCompare(got, key) == 1, weak, nil
}

// padding is the work that makes checking a password against a hash as long as against any other, where the most expensive
// of bcrypt has the cost most, 0 if there is none: who is imported, and who there is, cannot be told from the time. It is
// argon2id or not, and bcrypt of these costs; each takes twice as long as the one before.
func padding(hash string, most int) (argon bool, costs []int) {
	if most == 0 {
		return false, nil
	}
	if !isBcrypt(hash) {
		return false, []int{most}
	}
	own, err := bcrypt.Cost([]byte(hash))
	for cost := own; cost < most && err == nil; cost++ {
		costs = append(costs, cost)
	}
	return true, costs
}

// pad does the work of padding.
func pad(hash string, most int) error {
	argon, costs := padding(hash, most)
	for _, cost := range costs {
		if _, err := bcrypt.GenerateFromPassword([]byte("nobody's"), cost); err != nil {
			return err
		}
	}
	if !argon {
		return nil
	}
	_, _, err := checkPassword(nobodysHash, "nobody's")
	return err
}

// seenWhole says whether bcrypt tells a password from every other one: it repeats it with a NUL behind it, and looks at the
// first 72 bytes of that.
func seenWhole(password string) bool {
	return len(password) <= maxBcrypt && !strings.ContainsRune(password, 0)
}

func isBcrypt(hash string) bool {
	return strings.HasPrefix(hash, "$2a$") || strings.HasPrefix(hash, "$2b$") || strings.HasPrefix(hash, "$2y$")
}
