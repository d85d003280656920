fn main() {
    let a: i32 = "no";
}
